"""The fused losses as functions: import as `F`."""

# Written by tools/exports.py.

from typing import Literal

from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from ._explain import explain as explain

def approx_ndcg_loss(
    scores: Tensor,
    relevance: Tensor,
    *,
    temperature: float = 1.0,
    k: int | None = None,
    mask: Tensor | None = None,
    reduction: Literal["none", "mean", "sum"] = "mean",
) -> Tensor: ...
def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: Literal["none", "mean", "sum"] = "mean"
) -> Tensor: ...
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: Literal["none", "mean", "sum"] = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor: ...
def clip_loss(
    x: Tensor,
    y: Tensor,
    logit_scale: Tensor | float,
    *,
    normalize: bool = False,
    group: ProcessGroup | DeviceMesh | None = None,
) -> Tensor: ...
def contrastive_loss(
    x1: Tensor, x2: Tensor, target: Tensor, margin: float = 1.0, reduction: Literal["none", "mean", "sum"] = "mean"
) -> Tensor: ...
def contrastive_loss_from_distance(
    distance: Tensor, target: Tensor, margin: float = 1.0, reduction: Literal["none", "mean", "sum"] = "mean"
) -> Tensor: ...
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
    reduction: Literal["none", "mean", "sum"] = "mean",
    label_smoothing: float = 0.0,
) -> Tensor: ...
def dice_cross_entropy_loss(
    input: Tensor,
    target: Tensor,
    *,
    activation: Literal["sigmoid", "softmax"] = "softmax",
    dice_weight: float = 1.0,
    ce_weight: float = 1.0,
    smooth_nr: float = 1e-05,
    smooth_dr: float = 1e-05,
    squared: bool = False,
    batch: bool = False,
    include_background: bool = True,
    ignore_index: float | None = None,
    weight: Tensor | None = None,
    average: Literal["macro", "micro"] = "macro",
    absent: Literal["count", "zero", "skip"] = "count",
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor: ...
def dice_focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    activation: Literal["sigmoid", "softmax"] = "softmax",
    dice_weight: float = 1.0,
    focal_weight: float = 1.0,
    gamma: float = 2.0,
    alpha: float | None = None,
    smooth_nr: float = 1e-05,
    smooth_dr: float = 1e-05,
    squared: bool = False,
    batch: bool = False,
    include_background: bool = True,
    ignore_index: float | None = None,
    weight: Tensor | None = None,
    average: Literal["macro", "micro"] = "macro",
    absent: Literal["count", "zero", "skip"] = "count",
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    focal_activation: Literal[None, "sigmoid", "softmax"] = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor: ...
def dice_loss(
    input: Tensor,
    target: Tensor,
    *,
    activation: Literal[None, "sigmoid", "softmax"] = "sigmoid",
    smooth_nr: float = 1e-05,
    smooth_dr: float = 1e-05,
    squared: bool = False,
    batch: bool = False,
    include_background: bool = True,
    ignore_index: float | None = None,
    weight: Tensor | None = None,
    average: Literal["macro", "micro"] = "macro",
    absent: Literal["count", "zero", "skip"] = "count",
    reduction: Literal["none", "mean", "sum"] = "mean",
) -> Tensor: ...
def expected_bleu_loss(
    logits: Tensor,
    target: Tensor,
    *,
    max_order: int = 4,
    logits_lengths: Tensor | None = None,
    target_lengths: Tensor | None = None,
    smooth: float = 1.0,
    reduction: Literal["none", "mean", "sum"] = "mean",
) -> Tensor: ...
def gaussian_kl(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    reduction: Literal["none", "mean", "sum", "batchmean"] = "batchmean",
) -> Tensor: ...
def hinge_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    reduction: Literal["none", "mean", "sum"] = "mean",
    *,
    squared: bool = False,
) -> Tensor: ...
def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: Literal["none", "mean", "sum"] = "mean",
    delta: float = 1.0,
    *,
    weight: Tensor | None = None,
) -> Tensor: ...
def info_nce_loss(
    query: Tensor,
    key: Tensor,
    *,
    target: Tensor | None = None,
    temperature: Tensor | float = 0.07,
    normalize: bool = False,
    reduction: Literal["none", "mean", "sum"] = "mean",
) -> Tensor: ...
def jaccard_loss(
    input: Tensor,
    target: Tensor,
    *,
    activation: Literal[None, "sigmoid", "softmax"] = "sigmoid",
    smooth_nr: float = 1e-05,
    smooth_dr: float = 1e-05,
    squared: bool = False,
    batch: bool = False,
    include_background: bool = True,
    ignore_index: float | None = None,
    weight: Tensor | None = None,
    average: Literal["macro", "micro"] = "macro",
    absent: Literal["count", "zero", "skip"] = "count",
    reduction: Literal["none", "mean", "sum"] = "mean",
) -> Tensor: ...
def js_div_with_logits(
    input: Tensor,
    target: Tensor,
    reduction: Literal["none", "mean", "sum", "batchmean"] = "batchmean",
    *,
    beta: float = 0.5,
    dim: int = -1,
) -> Tensor: ...
def kl_div(
    input: Tensor,
    target: Tensor,
    reduction: Literal["none", "mean", "sum", "batchmean"] = "mean",
    log_target: bool = False,
) -> Tensor: ...
def kl_div_with_logits(
    input: Tensor,
    target: Tensor,
    reduction: Literal["none", "mean", "sum", "batchmean"] = "batchmean",
    *,
    temperature: float = 1.0,
    dim: int = -1,
) -> Tensor: ...
def l1_loss(
    input: Tensor, target: Tensor, reduction: Literal["none", "mean", "sum"] = "mean", *, weight: Tensor | None = None
) -> Tensor: ...
def lambda_ndcg_loss(
    scores: Tensor,
    relevance: Tensor,
    *,
    sigma: float = 1.0,
    k: int | None = None,
    mask: Tensor | None = None,
    reduction: Literal["none", "mean", "sum"] = "mean",
) -> Tensor: ...
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Literal["none", "mean", "sum"] = "mean",
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    group: ProcessGroup | DeviceMesh | None = None,
) -> Tensor: ...
def linear_js_div(
    input: Tensor,
    linear_weight: Tensor,
    teacher_input: Tensor,
    teacher_weight: Tensor,
    *,
    linear_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    beta: float = 0.5,
    reduction: Literal["none", "mean", "sum", "batchmean"] = "batchmean",
) -> Tensor: ...
def linear_kl_div(
    input: Tensor,
    linear_weight: Tensor,
    teacher_input: Tensor,
    teacher_weight: Tensor,
    *,
    linear_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    temperature: float = 1.0,
    reduction: Literal["none", "mean", "sum", "batchmean"] = "batchmean",
) -> Tensor: ...
def mahalanobis_distance(input: Tensor, mean: Tensor, scale_tril: Tensor, *, squared: bool = False) -> Tensor: ...
def mahalanobis_loss(
    input: Tensor,
    target: Tensor,
    mean: Tensor,
    scale_tril: Tensor,
    margin: float = 1.0,
    reduction: Literal["none", "mean", "sum"] = "mean",
) -> Tensor: ...
def mse_loss(
    input: Tensor, target: Tensor, reduction: Literal["none", "mean", "sum"] = "mean", *, weight: Tensor | None = None
) -> Tensor: ...
def multi_similarity_loss(
    features: Tensor,
    labels: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float = 0.1,
    normalize: bool = True,
) -> Tensor: ...
def nt_xent_loss(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: Tensor | float = 0.5,
    normalize: bool = True,
    group: ProcessGroup | DeviceMesh | None = None,
) -> Tensor: ...
def siglip_loss(
    x: Tensor,
    y: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    normalize: bool = False,
    group: ProcessGroup | DeviceMesh | None = None,
) -> Tensor: ...
def sigmoid_focal_loss(
    input: Tensor,
    target: Tensor,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: Literal["none", "mean", "sum"] = "none",
    *,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    ignore_index: float | None = None,
) -> Tensor: ...
def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    reduction: Literal["none", "mean", "sum"] = "mean",
    beta: float = 1.0,
    *,
    weight: Tensor | None = None,
) -> Tensor: ...
def softmax_focal_loss(
    input: Tensor,
    target: Tensor,
    alpha: Tensor | float | None = None,
    gamma: float = 2.0,
    ignore_index: int | None = -100,
    reduction: Literal["none", "mean", "sum"] = "mean",
    *,
    label_smoothing: float = 0.0,
) -> Tensor: ...
def sup_con_loss(
    features: Tensor,
    labels: Tensor,
    *,
    temperature: Tensor | float = 0.07,
    normalize: bool = True,
    group: ProcessGroup | DeviceMesh | None = None,
) -> Tensor: ...
def triplet_batch_hard_loss(
    features: Tensor, labels: Tensor, *, margin: float = 1.0, squared: bool = False, soft: bool = False
) -> Tensor: ...
def tversky_loss(
    input: Tensor,
    target: Tensor,
    *,
    activation: Literal[None, "sigmoid", "softmax"] = "sigmoid",
    smooth_nr: float = 1e-05,
    smooth_dr: float = 1e-05,
    batch: bool = False,
    include_background: bool = True,
    ignore_index: float | None = None,
    weight: Tensor | None = None,
    average: Literal["macro", "micro"] = "macro",
    absent: Literal["count", "zero", "skip"] = "count",
    reduction: Literal["none", "mean", "sum"] = "mean",
    alpha: float = 0.5,
    beta: float = 0.5,
    gamma: float = 1.0,
) -> Tensor: ...
def vae_loss(
    reconstruction: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    likelihood: Literal["bernoulli", "bernoulli_logits", "gaussian"] = "bernoulli",
    beta: float = 1.0,
    reduction: Literal["none", "mean", "sum"] = "mean",
) -> tuple[Tensor, Tensor, Tensor]: ...
def weighted_binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    class_weights: tuple[float, float] | list[float] = (1.0, 1.0),
    reduction: Literal["none", "mean", "sum"] = "mean",
) -> Tensor: ...
def weighted_binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    class_weights: tuple[float, float] | list[float] = (1.0, 1.0),
    reduction: Literal["none", "mean", "sum"] = "mean",
    *,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    ignore_index: float | None = None,
    label_smoothing: float = 0.0,
) -> Tensor: ...

__all__ = [
    "approx_ndcg_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "clip_loss",
    "contrastive_loss",
    "contrastive_loss_from_distance",
    "cross_entropy",
    "dice_cross_entropy_loss",
    "dice_focal_loss",
    "dice_loss",
    "expected_bleu_loss",
    "gaussian_kl",
    "hinge_loss",
    "huber_loss",
    "info_nce_loss",
    "jaccard_loss",
    "js_div_with_logits",
    "kl_div",
    "kl_div_with_logits",
    "l1_loss",
    "lambda_ndcg_loss",
    "linear_cross_entropy",
    "linear_js_div",
    "linear_kl_div",
    "mahalanobis_distance",
    "mahalanobis_loss",
    "mse_loss",
    "multi_similarity_loss",
    "nt_xent_loss",
    "siglip_loss",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "softmax_focal_loss",
    "sup_con_loss",
    "triplet_batch_hard_loss",
    "tversky_loss",
    "vae_loss",
    "weighted_binary_cross_entropy",
    "weighted_binary_cross_entropy_with_logits",
]

"""Fused loss functions for PyTorch: for each loss one kernel on the CPU and one on CUDA, forward and backward."""

# Written by tools/exports.py.

from typing import Literal

from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from . import functional, reference
from ._build_info import build_info
from ._module import LossModule
from .losses.distance import fit_gaussian

__version__: str

class ApproxNDCGLoss(LossModule):
    temperature: float
    k: int | None
    reduction: Literal["none", "mean", "sum"]
    def __init__(
        self, *, temperature: float = 1.0, k: int | None = None, reduction: Literal["none", "mean", "sum"] = "mean"
    ) -> None: ...
    def forward(self, scores: Tensor, relevance: Tensor, mask: Tensor | None = None) -> Tensor: ...
    def __call__(self, scores: Tensor, relevance: Tensor, mask: Tensor | None = None) -> Tensor: ...

class BCELoss(LossModule):
    weight: Tensor | None
    reduction: Literal["none", "mean", "sum"]
    def __init__(self, weight: Tensor | None = None, reduction: Literal["none", "mean", "sum"] = "mean") -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class BCEWithLogitsLoss(LossModule):
    weight: Tensor | None
    reduction: Literal["none", "mean", "sum"]
    pos_weight: Tensor | None
    def __init__(
        self,
        weight: Tensor | None = None,
        reduction: Literal["none", "mean", "sum"] = "mean",
        pos_weight: Tensor | None = None,
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class ClipLoss(LossModule):
    normalize: bool
    group: ProcessGroup | DeviceMesh | None
    def __init__(self, *, normalize: bool = False, group: ProcessGroup | DeviceMesh | None = None) -> None: ...
    def forward(self, x: Tensor, y: Tensor, logit_scale: Tensor | float) -> Tensor: ...
    def __call__(self, x: Tensor, y: Tensor, logit_scale: Tensor | float) -> Tensor: ...

class ContrastiveLoss(LossModule):
    margin: float
    reduction: Literal["none", "mean", "sum"]
    def __init__(self, margin: float = 1.0, reduction: Literal["none", "mean", "sum"] = "mean") -> None: ...
    def forward(self, x1: Tensor, x2: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, x1: Tensor, x2: Tensor, target: Tensor) -> Tensor: ...

class ContrastiveLossFromDistance(LossModule):
    margin: float
    reduction: Literal["none", "mean", "sum"]
    def __init__(self, margin: float = 1.0, reduction: Literal["none", "mean", "sum"] = "mean") -> None: ...
    def forward(self, distance: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, distance: Tensor, target: Tensor) -> Tensor: ...

class CrossEntropyLoss(LossModule):
    weight: Tensor | None
    ignore_index: int | None
    reduction: Literal["none", "mean", "sum"]
    label_smoothing: float
    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int | None = -100,
        reduction: Literal["none", "mean", "sum"] = "mean",
        label_smoothing: float = 0.0,
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class DiceCrossEntropyLoss(LossModule):
    activation: Literal["sigmoid", "softmax"]
    dice_weight: float
    ce_weight: float
    smooth_nr: float
    smooth_dr: float
    squared: bool
    batch: bool
    include_background: bool
    ignore_index: float | None
    weight: Tensor | None
    average: Literal["macro", "micro"]
    absent: Literal["count", "zero", "skip"]
    class_weight: Tensor | None
    label_smoothing: float
    reduction: Literal["mean", "sum"]
    def __init__(
        self,
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
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class DiceFocalLoss(LossModule):
    activation: Literal["sigmoid", "softmax"]
    dice_weight: float
    focal_weight: float
    gamma: float
    alpha: float | None
    smooth_nr: float
    smooth_dr: float
    squared: bool
    batch: bool
    include_background: bool
    ignore_index: float | None
    weight: Tensor | None
    average: Literal["macro", "micro"]
    absent: Literal["count", "zero", "skip"]
    class_weight: Tensor | None
    label_smoothing: float
    focal_activation: Literal[None, "sigmoid", "softmax"]
    reduction: Literal["mean", "sum"]
    def __init__(
        self,
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
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class DiceLoss(LossModule):
    activation: Literal[None, "sigmoid", "softmax"]
    smooth_nr: float
    smooth_dr: float
    squared: bool
    batch: bool
    include_background: bool
    ignore_index: float | None
    weight: Tensor | None
    average: Literal["macro", "micro"]
    absent: Literal["count", "zero", "skip"]
    reduction: Literal["none", "mean", "sum"]
    def __init__(
        self,
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
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class ExpectedBLEULoss(LossModule):
    max_order: int
    smooth: float
    reduction: Literal["none", "mean", "sum"]
    def __init__(
        self, *, max_order: int = 4, smooth: float = 1.0, reduction: Literal["none", "mean", "sum"] = "mean"
    ) -> None: ...
    def forward(
        self, logits: Tensor, target: Tensor, logits_lengths: Tensor | None = None, target_lengths: Tensor | None = None
    ) -> Tensor: ...
    def __call__(
        self, logits: Tensor, target: Tensor, logits_lengths: Tensor | None = None, target_lengths: Tensor | None = None
    ) -> Tensor: ...

class GaussianKLLoss(LossModule):
    reduction: Literal["none", "mean", "sum", "batchmean"]
    def __init__(self, reduction: Literal["none", "mean", "sum", "batchmean"] = "batchmean") -> None: ...
    def forward(
        self, mu: Tensor, logvar: Tensor, prior_mu: Tensor | None = None, prior_logvar: Tensor | None = None
    ) -> Tensor: ...
    def __call__(
        self, mu: Tensor, logvar: Tensor, prior_mu: Tensor | None = None, prior_logvar: Tensor | None = None
    ) -> Tensor: ...

class HingeLoss(LossModule):
    margin: float
    reduction: Literal["none", "mean", "sum"]
    squared: bool
    def __init__(
        self, margin: float = 1.0, reduction: Literal["none", "mean", "sum"] = "mean", *, squared: bool = False
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class HuberLoss(LossModule):
    reduction: Literal["none", "mean", "sum"]
    delta: float
    weight: Tensor | None
    def __init__(
        self, reduction: Literal["none", "mean", "sum"] = "mean", delta: float = 1.0, *, weight: Tensor | None = None
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class InfoNCELoss(LossModule):
    temperature: Tensor | float
    normalize: bool
    reduction: Literal["none", "mean", "sum"]
    def __init__(
        self,
        *,
        temperature: Tensor | float = 0.07,
        normalize: bool = False,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ) -> None: ...
    def forward(self, query: Tensor, key: Tensor, target: Tensor | None = None) -> Tensor: ...
    def __call__(self, query: Tensor, key: Tensor, target: Tensor | None = None) -> Tensor: ...

class JSDivWithLogitsLoss(LossModule):
    reduction: Literal["none", "mean", "sum", "batchmean"]
    beta: float
    dim: int
    def __init__(
        self, reduction: Literal["none", "mean", "sum", "batchmean"] = "batchmean", *, beta: float = 0.5, dim: int = -1
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class JaccardLoss(LossModule):
    activation: Literal[None, "sigmoid", "softmax"]
    smooth_nr: float
    smooth_dr: float
    squared: bool
    batch: bool
    include_background: bool
    ignore_index: float | None
    weight: Tensor | None
    average: Literal["macro", "micro"]
    absent: Literal["count", "zero", "skip"]
    reduction: Literal["none", "mean", "sum"]
    def __init__(
        self,
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
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class KLDivLoss(LossModule):
    reduction: Literal["none", "mean", "sum", "batchmean"]
    log_target: bool
    def __init__(
        self, reduction: Literal["none", "mean", "sum", "batchmean"] = "mean", log_target: bool = False
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class KLDivWithLogitsLoss(LossModule):
    reduction: Literal["none", "mean", "sum", "batchmean"]
    temperature: float
    dim: int
    def __init__(
        self,
        reduction: Literal["none", "mean", "sum", "batchmean"] = "batchmean",
        *,
        temperature: float = 1.0,
        dim: int = -1,
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class L1Loss(LossModule):
    reduction: Literal["none", "mean", "sum"]
    weight: Tensor | None
    def __init__(self, reduction: Literal["none", "mean", "sum"] = "mean", *, weight: Tensor | None = None) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class LambdaNDCGLoss(LossModule):
    sigma: float
    k: int | None
    reduction: Literal["none", "mean", "sum"]
    def __init__(
        self, *, sigma: float = 1.0, k: int | None = None, reduction: Literal["none", "mean", "sum"] = "mean"
    ) -> None: ...
    def forward(self, scores: Tensor, relevance: Tensor, mask: Tensor | None = None) -> Tensor: ...
    def __call__(self, scores: Tensor, relevance: Tensor, mask: Tensor | None = None) -> Tensor: ...

class LinearCrossEntropyLoss(LossModule):
    weight: Tensor | None
    reduction: Literal["none", "mean", "sum"]
    ignore_index: int | None
    label_smoothing: float
    softcap: float | None
    z_loss: float
    group: ProcessGroup | DeviceMesh | None
    def __init__(
        self,
        *,
        weight: Tensor | None = None,
        reduction: Literal["none", "mean", "sum"] = "mean",
        ignore_index: int | None = -100,
        label_smoothing: float = 0.0,
        softcap: float | None = None,
        z_loss: float = 0.0,
        group: ProcessGroup | DeviceMesh | None = None,
    ) -> None: ...
    def forward(
        self, input: Tensor, linear_weight: Tensor, target: Tensor, linear_bias: Tensor | None = None
    ) -> Tensor: ...
    def __call__(
        self, input: Tensor, linear_weight: Tensor, target: Tensor, linear_bias: Tensor | None = None
    ) -> Tensor: ...

class LinearJSDivLoss(LossModule):
    beta: float
    reduction: Literal["none", "mean", "sum", "batchmean"]
    def __init__(
        self, *, beta: float = 0.5, reduction: Literal["none", "mean", "sum", "batchmean"] = "batchmean"
    ) -> None: ...
    def forward(
        self,
        input: Tensor,
        linear_weight: Tensor,
        teacher_input: Tensor,
        teacher_weight: Tensor,
        linear_bias: Tensor | None = None,
        teacher_bias: Tensor | None = None,
    ) -> Tensor: ...
    def __call__(
        self,
        input: Tensor,
        linear_weight: Tensor,
        teacher_input: Tensor,
        teacher_weight: Tensor,
        linear_bias: Tensor | None = None,
        teacher_bias: Tensor | None = None,
    ) -> Tensor: ...

class LinearKLDivLoss(LossModule):
    temperature: float
    reduction: Literal["none", "mean", "sum", "batchmean"]
    def __init__(
        self, *, temperature: float = 1.0, reduction: Literal["none", "mean", "sum", "batchmean"] = "batchmean"
    ) -> None: ...
    def forward(
        self,
        input: Tensor,
        linear_weight: Tensor,
        teacher_input: Tensor,
        teacher_weight: Tensor,
        linear_bias: Tensor | None = None,
        teacher_bias: Tensor | None = None,
    ) -> Tensor: ...
    def __call__(
        self,
        input: Tensor,
        linear_weight: Tensor,
        teacher_input: Tensor,
        teacher_weight: Tensor,
        linear_bias: Tensor | None = None,
        teacher_bias: Tensor | None = None,
    ) -> Tensor: ...

class MSELoss(LossModule):
    reduction: Literal["none", "mean", "sum"]
    weight: Tensor | None
    def __init__(self, reduction: Literal["none", "mean", "sum"] = "mean", *, weight: Tensor | None = None) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class MahalanobisDistance(LossModule):
    mean: Tensor
    scale_tril: Tensor
    squared: bool
    def __init__(self, mean: Tensor, scale_tril: Tensor, *, squared: bool = False) -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor) -> Tensor: ...

class MahalanobisLoss(LossModule):
    mean: Tensor
    scale_tril: Tensor
    margin: float
    reduction: Literal["none", "mean", "sum"]
    def __init__(
        self, mean: Tensor, scale_tril: Tensor, margin: float = 1.0, reduction: Literal["none", "mean", "sum"] = "mean"
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class MultiSimilarityLoss(LossModule):
    alpha: float
    beta: float
    base: float
    epsilon: float
    normalize: bool
    def __init__(
        self, *, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5, epsilon: float = 0.1, normalize: bool = True
    ) -> None: ...
    def forward(self, features: Tensor, labels: Tensor) -> Tensor: ...
    def __call__(self, features: Tensor, labels: Tensor) -> Tensor: ...

class NTXentLoss(LossModule):
    temperature: Tensor | float
    normalize: bool
    group: ProcessGroup | DeviceMesh | None
    def __init__(
        self,
        *,
        temperature: Tensor | float = 0.5,
        normalize: bool = True,
        group: ProcessGroup | DeviceMesh | None = None,
    ) -> None: ...
    def forward(self, z1: Tensor, z2: Tensor) -> Tensor: ...
    def __call__(self, z1: Tensor, z2: Tensor) -> Tensor: ...

class SigLipLoss(LossModule):
    normalize: bool
    group: ProcessGroup | DeviceMesh | None
    def __init__(self, *, normalize: bool = False, group: ProcessGroup | DeviceMesh | None = None) -> None: ...
    def forward(self, x: Tensor, y: Tensor, logit_scale: Tensor | float, logit_bias: Tensor | float) -> Tensor: ...
    def __call__(self, x: Tensor, y: Tensor, logit_scale: Tensor | float, logit_bias: Tensor | float) -> Tensor: ...

class SigmoidFocalLoss(LossModule):
    alpha: float
    gamma: float
    reduction: Literal["none", "mean", "sum"]
    weight: Tensor | None
    pos_weight: Tensor | None
    ignore_index: float | None
    def __init__(
        self,
        alpha: float = 0.25,
        gamma: float = 2.0,
        reduction: Literal["none", "mean", "sum"] = "mean",
        *,
        weight: Tensor | None = None,
        pos_weight: Tensor | None = None,
        ignore_index: float | None = None,
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class SmoothL1Loss(LossModule):
    reduction: Literal["none", "mean", "sum"]
    beta: float
    weight: Tensor | None
    def __init__(
        self, reduction: Literal["none", "mean", "sum"] = "mean", beta: float = 1.0, *, weight: Tensor | None = None
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class SoftmaxFocalLoss(LossModule):
    alpha: Tensor | float | None
    gamma: float
    ignore_index: int | None
    reduction: Literal["none", "mean", "sum"]
    label_smoothing: float
    def __init__(
        self,
        alpha: Tensor | float | None = None,
        gamma: float = 2.0,
        ignore_index: int | None = -100,
        reduction: Literal["none", "mean", "sum"] = "mean",
        *,
        label_smoothing: float = 0.0,
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class SupConLoss(LossModule):
    temperature: Tensor | float
    normalize: bool
    group: ProcessGroup | DeviceMesh | None
    def __init__(
        self,
        *,
        temperature: Tensor | float = 0.07,
        normalize: bool = True,
        group: ProcessGroup | DeviceMesh | None = None,
    ) -> None: ...
    def forward(self, features: Tensor, labels: Tensor) -> Tensor: ...
    def __call__(self, features: Tensor, labels: Tensor) -> Tensor: ...

class TripletBatchHardLoss(LossModule):
    margin: float
    squared: bool
    soft: bool
    def __init__(self, *, margin: float = 1.0, squared: bool = False, soft: bool = False) -> None: ...
    def forward(self, features: Tensor, labels: Tensor) -> Tensor: ...
    def __call__(self, features: Tensor, labels: Tensor) -> Tensor: ...

class TverskyLoss(LossModule):
    activation: Literal[None, "sigmoid", "softmax"]
    smooth_nr: float
    smooth_dr: float
    batch: bool
    include_background: bool
    ignore_index: float | None
    weight: Tensor | None
    average: Literal["macro", "micro"]
    absent: Literal["count", "zero", "skip"]
    reduction: Literal["none", "mean", "sum"]
    alpha: float
    beta: float
    gamma: float
    def __init__(
        self,
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
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class VAELoss(LossModule):
    likelihood: Literal["bernoulli", "bernoulli_logits", "gaussian"]
    beta: float
    reduction: Literal["none", "mean", "sum"]
    def __init__(
        self,
        *,
        likelihood: Literal["bernoulli", "bernoulli_logits", "gaussian"] = "bernoulli",
        beta: float = 1.0,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ) -> None: ...
    def forward(
        self, reconstruction: Tensor, target: Tensor, mu: Tensor, logvar: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]: ...
    def __call__(
        self, reconstruction: Tensor, target: Tensor, mu: Tensor, logvar: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]: ...

class WeightedBinaryCrossEntropyLoss(LossModule):
    class_weights: tuple[float, float] | list[float]
    reduction: Literal["none", "mean", "sum"]
    def __init__(
        self,
        class_weights: tuple[float, float] | list[float] = (1.0, 1.0),
        reduction: Literal["none", "mean", "sum"] = "mean",
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class WeightedBinaryCrossEntropyWithLogitsLoss(LossModule):
    class_weights: tuple[float, float] | list[float]
    reduction: Literal["none", "mean", "sum"]
    weight: Tensor | None
    pos_weight: Tensor | None
    ignore_index: float | None
    label_smoothing: float
    def __init__(
        self,
        class_weights: tuple[float, float] | list[float] = (1.0, 1.0),
        reduction: Literal["none", "mean", "sum"] = "mean",
        *,
        weight: Tensor | None = None,
        pos_weight: Tensor | None = None,
        ignore_index: float | None = None,
        label_smoothing: float = 0.0,
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

__all__ = [
    "ApproxNDCGLoss",
    "BCELoss",
    "BCEWithLogitsLoss",
    "ClipLoss",
    "ContrastiveLoss",
    "ContrastiveLossFromDistance",
    "CrossEntropyLoss",
    "DiceCrossEntropyLoss",
    "DiceFocalLoss",
    "DiceLoss",
    "ExpectedBLEULoss",
    "GaussianKLLoss",
    "HingeLoss",
    "HuberLoss",
    "InfoNCELoss",
    "JSDivWithLogitsLoss",
    "JaccardLoss",
    "KLDivLoss",
    "KLDivWithLogitsLoss",
    "L1Loss",
    "LambdaNDCGLoss",
    "LinearCrossEntropyLoss",
    "LinearJSDivLoss",
    "LinearKLDivLoss",
    "MSELoss",
    "MahalanobisDistance",
    "MahalanobisLoss",
    "MultiSimilarityLoss",
    "NTXentLoss",
    "SigLipLoss",
    "SigmoidFocalLoss",
    "SmoothL1Loss",
    "SoftmaxFocalLoss",
    "SupConLoss",
    "TripletBatchHardLoss",
    "TverskyLoss",
    "VAELoss",
    "WeightedBinaryCrossEntropyLoss",
    "WeightedBinaryCrossEntropyWithLogitsLoss",
    "__version__",
    "build_info",
    "fit_gaussian",
    "functional",
    "reference",
]

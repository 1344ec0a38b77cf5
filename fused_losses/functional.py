"""The fused losses as functions: import as `F`."""

# Written by tools/exports.py.

from ._explain import explain as explain
from .chunked.contrastive import clip_loss, nt_xent_loss, siglip_loss, sup_con_loss
from .chunked.linear import linear_cross_entropy, linear_js_div, linear_kl_div
from .chunked.metric import multi_similarity_loss, triplet_batch_hard_loss
from .chunked.retrieval import info_nce_loss
from .losses.binary import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    hinge_loss,
    sigmoid_focal_loss,
    weighted_binary_cross_entropy,
    weighted_binary_cross_entropy_with_logits,
)
from .losses.classification import cross_entropy, softmax_focal_loss
from .losses.compound import dice_cross_entropy_loss, dice_focal_loss
from .losses.distance import contrastive_loss, contrastive_loss_from_distance, mahalanobis_distance, mahalanobis_loss
from .losses.divergence import gaussian_kl, js_div_with_logits, kl_div, kl_div_with_logits
from .losses.overlap import dice_loss, jaccard_loss, tversky_loss
from .losses.ranking import approx_ndcg_loss, lambda_ndcg_loss
from .losses.regression import huber_loss, l1_loss, mse_loss, smooth_l1_loss
from .losses.sequence import expected_bleu_loss
from .losses.vae import vae_loss

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

"""The same losses in plain PyTorch: the specification, and the path of whatever has no kernel."""

# Written by tools/exports.py.

from .losses.binary import reference_binary_cross_entropy as binary_cross_entropy
from .losses.binary import reference_binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from .losses.binary import reference_hinge_loss as hinge_loss
from .losses.binary import reference_sigmoid_focal_loss as sigmoid_focal_loss
from .losses.binary import reference_weighted_binary_cross_entropy as weighted_binary_cross_entropy
from .losses.binary import (
    reference_weighted_binary_cross_entropy_with_logits as weighted_binary_cross_entropy_with_logits,
)
from .losses.classification import reference_cross_entropy as cross_entropy
from .losses.classification import reference_softmax_focal_loss as softmax_focal_loss
from .losses.compound import reference_dice_cross_entropy_loss as dice_cross_entropy_loss
from .losses.compound import reference_dice_focal_loss as dice_focal_loss
from .losses.distance import reference_contrastive_loss as contrastive_loss
from .losses.distance import reference_contrastive_loss_from_distance as contrastive_loss_from_distance
from .losses.distance import reference_mahalanobis_distance as mahalanobis_distance
from .losses.distance import reference_mahalanobis_loss as mahalanobis_loss
from .losses.divergence import reference_gaussian_kl as gaussian_kl
from .losses.divergence import reference_js_div_with_logits as js_div_with_logits
from .losses.divergence import reference_kl_div as kl_div
from .losses.divergence import reference_kl_div_with_logits as kl_div_with_logits
from .losses.overlap import reference_dice_loss as dice_loss
from .losses.overlap import reference_jaccard_loss as jaccard_loss
from .losses.overlap import reference_tversky_loss as tversky_loss
from .losses.ranking import reference_approx_ndcg_loss as approx_ndcg_loss
from .losses.ranking import reference_lambda_ndcg_loss as lambda_ndcg_loss
from .losses.regression import reference_huber_loss as huber_loss
from .losses.regression import reference_l1_loss as l1_loss
from .losses.regression import reference_mse_loss as mse_loss
from .losses.regression import reference_smooth_l1_loss as smooth_l1_loss
from .losses.sequence import reference_expected_bleu_loss as expected_bleu_loss
from .losses.vae import reference_vae_loss as vae_loss

__all__ = [
    "approx_ndcg_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
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
    "jaccard_loss",
    "js_div_with_logits",
    "kl_div",
    "kl_div_with_logits",
    "l1_loss",
    "lambda_ndcg_loss",
    "mahalanobis_distance",
    "mahalanobis_loss",
    "mse_loss",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "softmax_focal_loss",
    "tversky_loss",
    "vae_loss",
    "weighted_binary_cross_entropy",
    "weighted_binary_cross_entropy_with_logits",
]

"""The fused losses as functions: import as `F`."""

from .losses.binary import binary_cross_entropy_with_logits
from .losses.distance import contrastive_loss, contrastive_loss_from_distance, mahalanobis_distance, mahalanobis_loss
from .losses.overlap import dice_loss, jaccard_loss, tversky_loss

__all__ = [
    "binary_cross_entropy_with_logits",
    "contrastive_loss",
    "contrastive_loss_from_distance",
    "dice_loss",
    "jaccard_loss",
    "mahalanobis_distance",
    "mahalanobis_loss",
    "tversky_loss",
]

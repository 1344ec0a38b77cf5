"""The same losses in plain PyTorch: the specification, and the path of transforms and devices without a kernel."""

from .losses.binary import reference_binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from .losses.distance import reference_contrastive_loss as contrastive_loss
from .losses.distance import reference_contrastive_loss_from_distance as contrastive_loss_from_distance
from .losses.distance import reference_mahalanobis_distance as mahalanobis_distance
from .losses.distance import reference_mahalanobis_loss as mahalanobis_loss
from .losses.overlap import reference_dice_loss as dice_loss
from .losses.overlap import reference_jaccard_loss as jaccard_loss
from .losses.overlap import reference_tversky_loss as tversky_loss

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

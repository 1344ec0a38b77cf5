"""The fused losses as functions: import as `F`."""

from .losses.binary import binary_cross_entropy_with_logits
from .losses.overlap import dice_loss, jaccard_loss, tversky_loss

__all__ = [
    "binary_cross_entropy_with_logits",
    "dice_loss",
    "jaccard_loss",
    "tversky_loss",
]

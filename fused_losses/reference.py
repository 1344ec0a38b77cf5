"""The same losses in plain PyTorch: the specification, and the path of transforms and devices without a kernel."""

from .losses.binary import reference_binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from .losses.overlap import reference_dice_loss as dice_loss
from .losses.overlap import reference_jaccard_loss as jaccard_loss
from .losses.overlap import reference_tversky_loss as tversky_loss

__all__ = [
    "binary_cross_entropy_with_logits",
    "dice_loss",
    "jaccard_loss",
    "tversky_loss",
]

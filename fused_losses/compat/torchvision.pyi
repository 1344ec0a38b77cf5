"""torchvision 0.28."""

# Written by tools/exports.py.

from torch import Tensor

def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float | None = 0.25, gamma: float | None = 2, reduction: str | None = "none"
) -> Tensor: ...

__all__ = [
    "sigmoid_focal_loss",
]

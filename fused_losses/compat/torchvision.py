"""torchvision 0.28: `sigmoid_focal_loss`, which means the same on soft targets too."""

from __future__ import annotations

from .. import functional as F
from ._adapter import adapts, needs
from ._targets import loss_dtype

__all__ = ["sigmoid_focal_loss"]


@adapts("torchvision.ops.sigmoid_focal_loss")
def sigmoid_focal_loss(inputs, targets, alpha=0.25, gamma=2, reduction="none"):
    """:func:`fused_losses.functional.sigmoid_focal_loss` under torchvision's signature, in the dtype of its inputs."""
    needs(targets.is_floating_point(), f"targets of {targets.dtype}")
    dtype = loss_dtype(inputs, targets, cross_entropy=True)
    return F.sigmoid_focal_loss(inputs, targets, alpha, gamma, reduction).to(dtype)

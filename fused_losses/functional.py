"""The fused losses as functions: import as `F`."""

from .losses.binary import binary_cross_entropy_with_logits

__all__ = ["binary_cross_entropy_with_logits"]

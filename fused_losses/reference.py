"""The same losses in plain PyTorch: the specification, and the path of transforms and devices without a kernel."""

from .losses.binary import reference_binary_cross_entropy_with_logits as binary_cross_entropy_with_logits

__all__ = ["binary_cross_entropy_with_logits"]

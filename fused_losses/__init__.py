"""Fused loss functions for PyTorch: one kernel on the CPU and one on CUDA for each loss, forward and backward."""

from . import functional, reference
from ._version import __version__
from .losses.binary import BCEWithLogitsLoss
from .losses.overlap import DiceLoss, JaccardLoss, TverskyLoss

__all__ = [
    "BCEWithLogitsLoss",
    "DiceLoss",
    "JaccardLoss",
    "TverskyLoss",
    "__version__",
    "functional",
    "reference",
]

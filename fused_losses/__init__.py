"""Fused loss functions for PyTorch: one kernel on the CPU and one on CUDA for each loss, forward and backward."""

from . import functional, reference
from ._version import __version__
from .losses.binary import BCEWithLogitsLoss

__all__ = ["BCEWithLogitsLoss", "__version__", "functional", "reference"]

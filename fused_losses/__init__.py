"""Fused loss functions for PyTorch: one kernel on the CPU and one on CUDA for each loss, forward and backward."""

from . import functional, reference
from ._version import __version__
from .losses.binary import BCEWithLogitsLoss
from .losses.distance import (
    ContrastiveLoss,
    ContrastiveLossFromDistance,
    MahalanobisDistance,
    MahalanobisLoss,
    fit_gaussian,
)
from .losses.overlap import DiceLoss, JaccardLoss, TverskyLoss

__all__ = [
    "BCEWithLogitsLoss",
    "ContrastiveLoss",
    "ContrastiveLossFromDistance",
    "DiceLoss",
    "JaccardLoss",
    "MahalanobisDistance",
    "MahalanobisLoss",
    "TverskyLoss",
    "__version__",
    "fit_gaussian",
    "functional",
    "reference",
]

"""Fused loss functions for PyTorch: for each loss one kernel on the CPU and one on CUDA, forward and backward."""

# Written by tools/exports.py.

from . import functional, reference
from ._build_info import build_info
from ._version import __version__
from .chunked.contrastive import ClipLoss, NTXentLoss, SigLipLoss, SupConLoss
from .chunked.linear import LinearCrossEntropyLoss, LinearJSDivLoss, LinearKLDivLoss
from .chunked.metric import MultiSimilarityLoss, TripletBatchHardLoss
from .chunked.retrieval import InfoNCELoss
from .losses.binary import (
    BCELoss,
    BCEWithLogitsLoss,
    HingeLoss,
    SigmoidFocalLoss,
    WeightedBinaryCrossEntropyLoss,
    WeightedBinaryCrossEntropyWithLogitsLoss,
)
from .losses.classification import CrossEntropyLoss, SoftmaxFocalLoss
from .losses.compound import DiceCrossEntropyLoss, DiceFocalLoss
from .losses.distance import (
    ContrastiveLoss,
    ContrastiveLossFromDistance,
    MahalanobisDistance,
    MahalanobisLoss,
    fit_gaussian,
)
from .losses.divergence import GaussianKLLoss, JSDivWithLogitsLoss, KLDivLoss, KLDivWithLogitsLoss
from .losses.overlap import DiceLoss, JaccardLoss, TverskyLoss
from .losses.ranking import ApproxNDCGLoss, LambdaNDCGLoss
from .losses.regression import HuberLoss, L1Loss, MSELoss, SmoothL1Loss
from .losses.sequence import ExpectedBLEULoss
from .losses.vae import VAELoss

__all__ = [
    "ApproxNDCGLoss",
    "BCELoss",
    "BCEWithLogitsLoss",
    "ClipLoss",
    "ContrastiveLoss",
    "ContrastiveLossFromDistance",
    "CrossEntropyLoss",
    "DiceCrossEntropyLoss",
    "DiceFocalLoss",
    "DiceLoss",
    "ExpectedBLEULoss",
    "GaussianKLLoss",
    "HingeLoss",
    "HuberLoss",
    "InfoNCELoss",
    "JSDivWithLogitsLoss",
    "JaccardLoss",
    "KLDivLoss",
    "KLDivWithLogitsLoss",
    "L1Loss",
    "LambdaNDCGLoss",
    "LinearCrossEntropyLoss",
    "LinearJSDivLoss",
    "LinearKLDivLoss",
    "MSELoss",
    "MahalanobisDistance",
    "MahalanobisLoss",
    "MultiSimilarityLoss",
    "NTXentLoss",
    "SigLipLoss",
    "SigmoidFocalLoss",
    "SmoothL1Loss",
    "SoftmaxFocalLoss",
    "SupConLoss",
    "TripletBatchHardLoss",
    "TverskyLoss",
    "VAELoss",
    "WeightedBinaryCrossEntropyLoss",
    "WeightedBinaryCrossEntropyWithLogitsLoss",
    "__version__",
    "build_info",
    "fit_gaussian",
    "functional",
    "reference",
]

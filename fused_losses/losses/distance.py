"""Distance losses (contrastive, Mahalanobis): each loss's reference, public function and Module side by side."""

from __future__ import annotations

import torch

from .. import _checks as check
from .._autograd import fused
from .._module import LossModule
from .._ops import NONE, Op, accumulation_dtype
from ._shared import accumulate, elementwise_shape, reduce, rows_shape


def safe_sqrt(x):
    """The square root, with gradient 0 at 0 in derivatives of any order."""
    zero = x == 0
    return torch.where(zero, 0, torch.where(zero, 1, x).sqrt())


def pull_and_push(distance, squared_distance, target, margin, reduction):
    """t d² + (1-t) max(0, margin - d)²; a d² that overflows counts as the largest number where t = 0."""
    finite = squared_distance.clamp(max=torch.finfo(squared_distance.dtype).max)
    pull = torch.where(target == 0, finite, squared_distance)
    return reduce(target * pull + (1 - target) * (margin - distance).relu() ** 2, reduction)


def reference_contrastive_loss(x1, x2, target, margin=1.0, reduction="mean"):
    """t d² + (1-t) max(0, margin - d)², d = ‖x1 - x2‖; the gradient is 0 at d = 0."""
    x1, x2, t = accumulate(x1, x2, target)
    squared = ((x1 - x2) ** 2).sum(-1)
    return pull_and_push(safe_sqrt(squared), squared, t, margin, reduction)


# tensors: x1 and x2 (N, D) of one dtype, target (N,) of any dense dtype. options: margin.
_contrastive_loss = Op(reference_contrastive_loss, ("x1", "x2", "target"), rows_shape, differentiable=("x1", "x2"))


def contrastive_loss(x1, x2, target, margin=1.0, reduction="mean"):
    """Contrastive loss between pairs of embeddings.

    .. math:: t \\, d^2 + (1-t) \\max(0, m - d)^2, \\quad d = \\lVert x_1 - x_2 \\rVert_2

    Args:
        x1, x2: embeddings (N, D) of the same dtype: float32, float64, float16 or bfloat16.
        target: t (N,), 1 for a similar pair, 0 for a dissimilar one, or between; any floating dtype, bool or uint8.
        margin: m >= 0, the distance beyond which dissimilar pairs cost nothing.
        reduction: "none", "mean" (over the pairs) or "sum".

    Returns:
        A scalar, or (N,) with "none"; float64 for float64 embeddings, else float32.

    At d = 0 the gradient is 0; at d = m both the loss and its gradient are 0 for a dissimilar pair. A dissimilar pair
    so far apart that d² overflows costs 0. NaN propagates; the mean of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device or option.
    Hadsell, Chopra and LeCun, "Dimensionality reduction by learning an invariant mapping" (2006), without its ½.
    """
    name = "contrastive_loss"
    check.pair(name, x1, x2, check.FLOATING, ("x1", "x2"))
    if x1.ndim != 2:
        raise ValueError(f"{name}: expected x1 of shape (N, D), got {tuple(x1.shape)}")
    if x2.dtype != x1.dtype:
        raise TypeError(f"{name}: expected x2 of dtype {x1.dtype}, got {x2.dtype}")
    check.shaped(name, "target", target, x1.shape[:1], x1)
    code = check.reduction_code(name, reduction)
    check.number(name, "margin", margin, 0)
    keywords = {"margin": margin, "reduction": reduction}
    return fused(_contrastive_loss, (x1, x2, target), (float(margin),), code, keywords)


class ContrastiveLoss(LossModule, function=contrastive_loss, tensors=("x1", "x2", "target")):
    """Module of :func:`contrastive_loss`."""


def reference_contrastive_loss_from_distance(distance, target, margin=1.0, reduction="mean"):
    """t d² + (1-t) max(0, margin - d)²."""
    d, t = accumulate(distance, target)
    beyond = (t == 0) & (d**2).isinf()  # not pulled, and not differentiated as 0 times infinity
    return pull_and_push(d, torch.where(beyond, 0, d) ** 2, t, margin, reduction)


# tensors of the elementwise driver: distance, target (any dense dtype), None, None. options: margin.
_contrastive_loss_from_distance = Op(
    reference_contrastive_loss_from_distance, ("distance", "target"), elementwise_shape, differentiable=("distance",)
)


def contrastive_loss_from_distance(distance, target, margin=1.0, reduction="mean"):
    """Contrastive loss from distances already computed.

    .. math:: t \\, d^2 + (1-t) \\max(0, m - d)^2

    Args:
        distance: d, any shape; float32, float64, float16 or bfloat16.
        target: t, the distance's shape, 1 for a similar pair, 0 for a dissimilar one, or between; any floating dtype,
            bool or uint8.
        margin: m >= 0.
        reduction: "none", "mean" (over the elements) or "sum".

    Returns:
        A scalar, or the distance's shape with "none"; float64 for float64 distances, else float32.

    The derivative is 2 t d - 2 (1-t) max(0, m - d), at d = 0 too: the gradient of the distance itself is the caller's.
    NaN propagates; the mean of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device or option.
    Hadsell, Chopra and LeCun, "Dimensionality reduction by learning an invariant mapping" (2006), without its ½.
    """
    name = "contrastive_loss_from_distance"
    check.pair(name, distance, target, names=("distance", "target"))
    code = check.reduction_code(name, reduction)
    check.number(name, "margin", margin, 0)
    keywords = {"margin": margin, "reduction": reduction}
    return fused(_contrastive_loss_from_distance, (distance, target, None, None), (float(margin),), code, keywords)


class ContrastiveLossFromDistance(LossModule, function=contrastive_loss_from_distance, tensors=("distance", "target")):
    """Module of :func:`contrastive_loss_from_distance`."""


def whiten(input, mean, scale_tril):
    """z = L⁻¹ (x - mean), one row for each row of the input; its squared norm is the squared Mahalanobis distance.

    Contiguous, so that the solve takes the same path, and rounds alike, whatever the strides of the arguments.
    """
    x, mean, factor = accumulate(input, mean, scale_tril)
    return torch.linalg.solve_triangular(factor.contiguous(), (x - mean).contiguous().mT, upper=False).mT


def whitened_distance(whitened, squared):
    """‖z‖ of each row, or ‖z‖² if `squared`; the gradient is 0 at 0."""
    d2 = (whitened**2).sum(-1)
    return d2 if squared else safe_sqrt(d2)


def reference_mahalanobis_distance(input, mean, scale_tril, *, squared=False):
    """‖L⁻¹ (x - mean)‖ of each row, or its square."""
    return whitened_distance(whiten(input, mean, scale_tril), squared)


# tensors: whitened (N, D), float32 or float64. options: squared. One result for each row, reduction "none".
_mahalanobis_distance = Op(
    whitened_distance, ("whitened",), rows_shape, differentiable=("whitened",), name="mahalanobis_distance"
)


def mahalanobis_distance(input, mean, scale_tril, *, squared=False):
    """Mahalanobis distance of each row to a Gaussian.

    .. math:: d = \\sqrt{(x-\\mu)^T \\Sigma^{-1} (x-\\mu)} = \\lVert L^{-1} (x-\\mu) \\rVert_2,
        \\quad \\Sigma = L L^T

    Args:
        input: x (N, D); float32, float64, float16 or bfloat16.
        mean: μ (D,), floating.
        scale_tril: L (D, D), floating, the lower Cholesky factor of the covariance, as from :func:`fit_gaussian`;
            entries above the diagonal are never read and get gradient 0.
        squared: return d².

    Returns:
        (N,); float64 for a float64 input, else float32.

    At d = 0 the gradient of d is 0. No inverse is formed. A singular factor gives infinity or NaN, unchecked.
    The triangular solve is PyTorch's, and with it its rounding for a given number of threads.
    Raises ValueError or TypeError on a wrong shape, dtype or device.
    Mahalanobis, "On the generalised distance in statistics" (1936).
    """
    name = "mahalanobis_distance"
    _check_gaussian(name, input, mean, scale_tril)
    check.flag(name, "squared", squared)
    whitened = whiten(input, mean, scale_tril)
    return fused(_mahalanobis_distance, (whitened,), (float(squared),), NONE, {"squared": squared})


def _check_gaussian(name, input, mean, scale_tril):
    check.tensor(name, "input", input)
    if input.ndim != 2:
        raise ValueError(f"{name}: expected input of shape (N, D), got {tuple(input.shape)}")
    size = input.shape[1]
    check.shaped(name, "mean", mean, (size,), input, check.FLOATING)
    check.shaped(name, "scale_tril", scale_tril, (size, size), input, check.FLOATING)


class MahalanobisDistance(LossModule, function=mahalanobis_distance, tensors=("input",)):
    """Module of :func:`mahalanobis_distance`; `mean` and `scale_tril` are buffers, or parameters if given as such."""


def whitened_loss(whitened, target, margin=1.0, reduction="mean"):
    """t ‖z‖² + (1-t) max(0, margin - ‖z‖)² of each row z."""
    d2 = (whitened**2).sum(-1)
    return pull_and_push(safe_sqrt(d2), d2, target.to(d2.dtype), margin, reduction)


def reference_mahalanobis_loss(input, target, mean, scale_tril, margin=1.0, reduction="mean"):
    """t d² + (1-t) max(0, margin - d)², d = ‖L⁻¹ (x - mean)‖; the gradient is 0 at d = 0."""
    return whitened_loss(whiten(input, mean, scale_tril), target, margin, reduction)


# tensors: whitened (N, D), float32 or float64, target (N,) of any dense dtype. options: margin. The formula is
# contrastive_loss's with x1 - x2 = whitened; the gradients of x, mean and L follow from whitened's by the solve.
_mahalanobis_loss = Op(
    whitened_loss, ("whitened", "target"), rows_shape, differentiable=("whitened",), name="mahalanobis_loss"
)


def mahalanobis_loss(input, target, mean, scale_tril, margin=1.0, reduction="mean"):
    """Anomaly loss: pulls normal rows to a Gaussian, pushes anomalies to a Mahalanobis distance of `margin`.

    .. math:: t \\, d^2 + (1-t) \\max(0, m - d)^2, \\quad d = \\lVert L^{-1} (x-\\mu) \\rVert_2

    Args:
        input: x (N, D); float32, float64, float16 or bfloat16.
        target: t (N,), 1 for a normal row, 0 for an anomaly, or between; any floating dtype, bool or uint8.
        mean, scale_tril: μ (D,) and L (D, D), as in :func:`mahalanobis_distance`; gradients flow to both.
        margin: m >= 0.
        reduction: "none", "mean" (over the rows) or "sum".

    Returns:
        A scalar, or (N,) with "none"; float64 for a float64 input, else float32.

    At d = 0 the gradient is 0. NaN propagates; the mean of nothing is NaN; a singular factor gives infinity or NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device or option.
    The contrastive loss of Hadsell, Chopra and LeCun (2006) on the distance of Mahalanobis (1936).
    """
    name = "mahalanobis_loss"
    _check_gaussian(name, input, mean, scale_tril)
    check.shaped(name, "target", target, input.shape[:1], input)
    code = check.reduction_code(name, reduction)
    check.number(name, "margin", margin, 0)
    whitened = whiten(input, mean, scale_tril)
    keywords = {"margin": margin, "reduction": reduction}
    return fused(_mahalanobis_loss, (whitened, target), (float(margin),), code, keywords)


class MahalanobisLoss(LossModule, function=mahalanobis_loss):
    """Module of :func:`mahalanobis_loss`; `mean` and `scale_tril` are buffers, or parameters if given as such."""


def fit_gaussian(x, *, shrinkage=0.0):
    """Mean and lower Cholesky factor of the covariance of the rows of `x`, in plain PyTorch.

    .. math:: \\Sigma = (1-s) S + s \\, \\frac{\\mathrm{tr}(S)}{D} I, \\quad S = \\frac{1}{N} \\sum (x-\\mu)(x-\\mu)^T

    Args:
        x: (N, D), N >= 1; float32, float64, float16 or bfloat16.
        shrinkage: s in [0, 1]; above 0 it keeps the covariance of few or dependent rows positive definite.

    Returns:
        (mean, scale_tril) of shapes (D,) and (D, D); float64 for float64 rows, else float32.

    Raises ValueError or TypeError on a wrong shape, dtype or option, torch.linalg.LinAlgError if the covariance is not
    positive definite. Divides by N and shrinks as scikit-learn's ``ShrunkCovariance``.
    """
    name = "fit_gaussian"
    check.tensor(name, "x", x)
    if x.ndim != 2 or x.shape[0] == 0:
        raise ValueError(f"{name}: expected x of shape (N, D) with N >= 1, got {tuple(x.shape)}")
    check.number(name, "shrinkage", shrinkage, 0, 1)
    x = x.to(accumulation_dtype(x.dtype))
    mean = x.mean(0)
    centred = x - mean
    covariance = centred.mT @ centred / x.shape[0]
    average = covariance.diagonal().mean()
    covariance = (1 - shrinkage) * covariance + torch.diag(shrinkage * average.expand(x.shape[1]))
    return mean, torch.linalg.cholesky(covariance)

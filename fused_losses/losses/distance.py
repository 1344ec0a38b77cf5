"""Distance losses (contrastive, Mahalanobis): formulas in plain PyTorch, which `loss` fuses, and Modules."""

from __future__ import annotations

import torch

from .. import _checks as check
from .._loss import loss
from .._module import LossModule
from .._op import NONE, accumulation_dtype, without_autocast
from .._options import Flag, Number
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


MARGIN = {"margin": Number(low=0)}


def check_embeddings(name, x1, x2, target):
    """Two embeddings (N, D) of one dtype and a target (N,)."""
    check.alike(name, "x2", x2, x1, check.FLOATING)
    if x1.ndim != 2:
        raise ValueError(f"{name}: expected x1 of shape (N, D), got {tuple(x1.shape)}")
    if x2.dtype != x1.dtype:
        raise TypeError(f"{name}: expected x2 of dtype {x1.dtype}, got {x2.dtype}")
    check.shaped(name, "target", target, x1.shape[:1], x1)


@loss(shape=rows_shape, check=check_embeddings, options=MARGIN)
def contrastive_loss(x1, x2, target, margin=1.0, reduction="mean"):
    """Contrastive loss between pairs of embeddings.

    .. math:: t \\, d^2 + (1-t) \\max(0, m - d)^2, \\quad d = \\lVert x_1 - x_2 \\rVert_2

    Args:
        x1, x2: embeddings (N, D) of the same dtype: float32, float64, float16 or bfloat16.
        target: t (N,), 1 for a similar pair, 0 for a dissimilar one, or between; floating, bool, uint8, int32 or int64.
        margin: m >= 0, the distance beyond which dissimilar pairs cost nothing.
        reduction: "none", "mean" (over the pairs) or "sum".

    Returns:
        A scalar, or (N,) with "none"; float64 for float64 embeddings, else float32.

    At d = 0 the gradient is 0; at d = m both the loss and its gradient are 0 for a dissimilar pair. A dissimilar pair
    so far apart that d² overflows costs 0. NaN propagates; the mean of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device or option.
    Hadsell, Chopra and LeCun, "Dimensionality reduction by learning an invariant mapping" (2006), without its ½.

    Example:
        >>> x1, x2 = torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [0.3, 0.4]])
        >>> F.contrastive_loss(x1, x2, torch.tensor([1, 0]), reduction="none")  # distances 5 and 0.5
        tensor([25.0000,  0.2500])
    """
    x1, x2, t = accumulate(x1, x2, target)
    squared = ((x1 - x2) ** 2).sum(-1)
    return pull_and_push(safe_sqrt(squared), squared, t, margin, reduction)


class ContrastiveLoss(LossModule, function=contrastive_loss, tensors=("x1", "x2", "target")):
    """Module of :func:`contrastive_loss`.

    Example:
        >>> criterion = fused_losses.ContrastiveLoss(margin=2.0)
        >>> criterion(torch.zeros(1, 2), torch.tensor([[0.3, 0.4]]), torch.tensor([0]))
        tensor(2.2500)
    """


def check_distances(name, distance, target):
    """A target of the distance's shape."""
    check.alike(name, "target", target, distance)


@loss(shape=elementwise_shape, check=check_distances, options=MARGIN, tensors=("distance", "target", None, None))
def contrastive_loss_from_distance(distance, target, margin=1.0, reduction="mean"):
    """Contrastive loss from distances already computed.

    .. math:: t \\, d^2 + (1-t) \\max(0, m - d)^2

    Args:
        distance: d, any shape; float32, float64, float16 or bfloat16.
        target: t, the distance's shape, 1 for a similar pair, 0 for a dissimilar one, or between; floating, bool,
            uint8, int32 or int64.
        margin: m >= 0.
        reduction: "none", "mean" (over the elements) or "sum".

    Returns:
        A scalar, or the distance's shape with "none"; float64 for float64 distances, else float32.

    The derivative is 2 t d - 2 (1-t) max(0, m - d), at d = 0 too: the gradient of the distance itself is the caller's.
    NaN propagates; the mean of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device or option.
    Hadsell, Chopra and LeCun, "Dimensionality reduction by learning an invariant mapping" (2006), without its ½.

    Example:
        >>> F.contrastive_loss_from_distance(torch.tensor([5.0, 0.5]), torch.tensor([1, 0]), reduction="none")
        tensor([25.0000,  0.2500])
    """
    d, t = accumulate(distance, target)
    beyond = (t == 0) & (d**2).isinf()  # not pulled, and not differentiated as 0 times infinity
    return pull_and_push(d, torch.where(beyond, 0, d) ** 2, t, margin, reduction)


class ContrastiveLossFromDistance(LossModule, function=contrastive_loss_from_distance, tensors=("distance", "target")):
    """Module of :func:`contrastive_loss_from_distance`.

    Example:
        >>> fused_losses.ContrastiveLossFromDistance(margin=2.0)(torch.tensor([0.5]), torch.tensor([0]))
        tensor(2.2500)
    """


def whiten(input, mean, scale_tril):
    """z = L⁻¹ (x - mean), one row for each row of the input; its squared norm is the squared Mahalanobis distance.

    Contiguous, so that the solve takes the same path, and rounds alike, whatever the strides of the arguments.
    """
    x, mean, factor = accumulate(input, mean, scale_tril)
    factor, centred = factor.contiguous(), (x - mean).contiguous()
    return torch.linalg.solve_triangular(factor, centred.mT, upper=False).mT


def whitened_distance(whitened, squared):
    """‖z‖ of each row, or ‖z‖² if `squared`; the gradient is 0 at 0."""
    d2 = (whitened**2).sum(-1)
    return d2 if squared else safe_sqrt(d2)


def whitened_shapes(tensors, options, reduction):
    """The forward keeps the whitened rows where a loss for each is differentiated later."""
    rows, size = tensors[0].shape
    return [(rows if reduction == NONE else 0, size)]


def check_gaussian(name, input, mean, scale_tril):
    """Rows (N, D), a mean (D,) and a factor (D, D)."""
    if input.ndim != 2:
        raise ValueError(f"{name}: expected input of shape (N, D), got {tuple(input.shape)}")
    size = input.shape[1]
    check.shaped(name, "mean", mean, (size,), input, check.FLOATING)
    check.shaped(name, "scale_tril", scale_tril, (size, size), input, check.FLOATING)


@loss(shape=rows_shape, check=check_gaussian, options={"squared": Flag()}, saved_shapes=whitened_shapes)
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

    At d = 0 the gradient of d is 0. A singular factor or an infinite input gives infinity or NaN, unchecked.
    Rows are whitened a chunk at a time, in float32 and for many rows by products with L⁻¹, which is computed in
    float64, else by triangular solves. Where it is by products, on the CPU, the loss and the gradient of the input have
    the same bits for any number of threads; the solves, the last products of the other gradients and all products on
    CUDA are PyTorch's, and with them their rounding for a given number of threads.
    Raises ValueError or TypeError on a wrong shape, dtype or device.
    Mahalanobis, "On the generalised distance in statistics" (1936).

    Example:
        >>> scale_tril = torch.diag(torch.tensor([2.0, 1.0]))  # deviations 2 and 1
        >>> F.mahalanobis_distance(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.zeros(2), scale_tril)
        tensor([1., 2.])
    """
    return whitened_distance(whiten(input, mean, scale_tril), squared)


class MahalanobisDistance(LossModule, function=mahalanobis_distance, tensors=("input",)):
    """Module of :func:`mahalanobis_distance`; `mean` and `scale_tril` are buffers, or parameters if given as such.

    Example:
        >>> distance = fused_losses.MahalanobisDistance(torch.zeros(2), torch.eye(2), squared=True)
        >>> distance(torch.tensor([[3.0, 4.0]]))
        tensor([25.])
    """


def whitened_loss(whitened, target, margin=1.0, reduction="mean"):
    """t ‖z‖² + (1-t) max(0, margin - ‖z‖)² of each row z."""
    d2 = (whitened**2).sum(-1)
    return pull_and_push(safe_sqrt(d2), d2, target.to(d2.dtype), margin, reduction)


def check_labelled(name, input, target, mean, scale_tril):
    """As `check_gaussian`, with a target (N,)."""
    check_gaussian(name, input, mean, scale_tril)
    check.shaped(name, "target", target, input.shape[:1], input)


@loss(shape=rows_shape, check=check_labelled, options=MARGIN, saved_shapes=whitened_shapes)
def mahalanobis_loss(input, target, mean, scale_tril, margin=1.0, reduction="mean"):
    """Anomaly loss: pulls normal rows to a Gaussian, pushes anomalies to a Mahalanobis distance of `margin`.

    .. math:: t \\, d^2 + (1-t) \\max(0, m - d)^2, \\quad d = \\lVert L^{-1} (x-\\mu) \\rVert_2

    Args:
        input: x (N, D); float32, float64, float16 or bfloat16.
        target: t (N,), 1 for a normal row, 0 for an anomaly, or between; floating, bool, uint8, int32 or int64.
        mean, scale_tril: μ (D,) and L (D, D), as in :func:`mahalanobis_distance`; gradients flow to both.
        margin: m >= 0.
        reduction: "none", "mean" (over the rows) or "sum".

    Returns:
        A scalar, or (N,) with "none"; float64 for a float64 input, else float32.

    At d = 0 the gradient is 0. NaN propagates; the mean of nothing is NaN; a singular factor or an infinite input gives
    infinity or NaN, or for an anomaly 0.
    Raises ValueError or TypeError on a wrong shape, dtype, device or option.
    The contrastive loss of Hadsell, Chopra and LeCun (2006) on the distance of Mahalanobis (1936).

    Example:
        >>> rows, normal = torch.tensor([[0.1, 0.0], [0.5, 0.0]]), torch.tensor([1, 0])
        >>> F.mahalanobis_loss(rows, normal, torch.zeros(2), torch.eye(2), reduction="none")
        tensor([0.0100, 0.2500])
    """
    return whitened_loss(whiten(input, mean, scale_tril), target, margin, reduction)


class MahalanobisLoss(LossModule, function=mahalanobis_loss):
    """Module of :func:`mahalanobis_loss`; `mean` and `scale_tril` are buffers, or parameters if given as such.

    Example:
        >>> criterion = fused_losses.MahalanobisLoss(torch.zeros(2), torch.eye(2), margin=2.0)
        >>> criterion(torch.tensor([[0.1, 0.0], [0.5, 0.0]]), torch.tensor([1, 0]))
        tensor(1.1300)
    """


def fit_gaussian(x: torch.Tensor, *, shrinkage: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and lower Cholesky factor of the covariance of the rows of `x`, in plain PyTorch.

    .. math:: \\Sigma = (1-s) S + s \\, \\frac{\\mathrm{tr}(S)}{D} I, \\quad S = \\frac{1}{N} \\sum (x-\\mu)(x-\\mu)^T

    Args:
        x: (N, D), N >= 1; float32, float64, float16 or bfloat16.
        shrinkage: s in [0, 1]; above 0 it keeps the covariance of few or dependent rows, unless all are equal, positive
            definite.

    Returns:
        (mean, scale_tril) of shapes (D,) and (D, D); float64 for float64 rows, else float32.

    Raises ValueError or TypeError on a wrong shape, dtype or option, torch.linalg.LinAlgError if the covariance is not
    positive definite. Divides by N and shrinks as scikit-learn's ``ShrunkCovariance``.

    Example:
        >>> mean, scale_tril = fused_losses.fit_gaussian(torch.tensor([[0.0, 1.0], [2.0, -1.0], [1.0, 3.0]]))
        >>> mean, scale_tril @ scale_tril.T  # the covariance
        (tensor([1., 1.]), tensor([[ 0.6667, -0.6667],
                [-0.6667,  2.6667]]))
    """
    name = "fit_gaussian"
    check.tensor(name, "x", x)
    if x.ndim != 2 or x.shape[0] == 0:
        raise ValueError(f"{name}: expected x of shape (N, D) with N >= 1, got {tuple(x.shape)}")
    shrinkage = Number(low=0, high=1).read(f"{name}: expected shrinkage", shrinkage, x.dtype, x.dim())
    with without_autocast(x):
        x = x.to(accumulation_dtype(x.dtype))
        mean = x.mean(0)
        centred = x - mean
        covariance = centred.mT @ centred / x.shape[0]
        average = covariance.diagonal().mean()
        covariance = (1 - shrinkage) * covariance + torch.diag(shrinkage * average.expand(x.shape[1]))
        try:
            return mean, torch.linalg.cholesky(covariance)
        except torch.linalg.LinAlgError as error:
            raise torch.linalg.LinAlgError(
                f"{name}: expected rows with a positive definite covariance, got x of shape {tuple(x.shape)} without; "
                "shrinkage above 0 gives them one unless all are equal"
            ) from error

"""Regression losses: formulas in plain PyTorch, which `loss` fuses, and Modules."""

from __future__ import annotations

from .._loss import loss
from .._module import LossModule
from .._options import Number
from ._shared import accumulate, elementwise_shape, reduce
from .binary import check_weighted, weighted_operands


def _reduce(loss, weight, reduction):
    """`reduce` of loss times weight; the mean is over the sum of the weight of every element."""
    if weight is None:
        return reduce(loss, reduction)
    return reduce(loss * weight, reduction, weight.expand_as(loss).sum() if reduction == "mean" else None)


def huber(d, delta):
    """d²/2 for |d| <= delta, else delta (|d| - delta/2)."""
    c = d.clamp(-delta, delta)
    return c * (d - c / 2)


@loss(shape=elementwise_shape, check=check_weighted, operands=weighted_operands)
def mse_loss(input, target, reduction="mean", *, weight=None):
    """Squared error.

    .. math:: w \\, (x-t)^2

    Args:
        input: x, any shape; float32, float64, float16 or bfloat16.
        target: t, the input's shape; floating, bool, uint8, int32 or int64.
        reduction: "none", "mean" (the sum over the number of elements, or over the sum of the broadcast weights) or
            "sum".
        weight: w, broadcast to the input's shape from the last dimension.

    Returns:
        A scalar, or the input's shape with "none"; float64 for a float64 input, else float32.

    NaN propagates; the mean of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device or reduction.
    Same as :func:`torch.nn.functional.mse_loss`.

    Example:
        >>> F.mse_loss(torch.tensor([1.0, 4.0]), torch.tensor([0.0, 2.0]), weight=torch.tensor([3.0, 1.0]))
        tensor(1.7500)
    """
    x, t, w = accumulate(input, target, weight)
    d = x - t
    return _reduce(d * d, w, reduction)


class MSELoss(LossModule, function=mse_loss):
    """Module of :func:`mse_loss`; `weight` is a buffer.

    Example:
        >>> fused_losses.MSELoss()(torch.tensor([1.0, 4.0]), torch.tensor([0.0, 2.0]))
        tensor(2.5000)
    """


@loss(shape=elementwise_shape, check=check_weighted, operands=weighted_operands)
def l1_loss(input, target, reduction="mean", *, weight=None):
    """Absolute error.

    .. math:: w \\, |x-t|

    Args:
        input: x, any shape; float32, float64, float16 or bfloat16.
        target: t, the input's shape; floating, bool, uint8, int32 or int64.
        reduction: "none", "mean" (the sum over the number of elements, or over the sum of the broadcast weights) or
            "sum".
        weight: w, broadcast to the input's shape from the last dimension.

    Returns:
        A scalar, or the input's shape with "none"; float64 for a float64 input, else float32.

    The gradient is sign(x-t), 0 at x = t; a NaN gives loss NaN and, as in torch, gradient 0; the mean of nothing is
    NaN. Raises ValueError or TypeError on a wrong shape, dtype, device or reduction.
    Same as :func:`torch.nn.functional.l1_loss`.

    Example:
        >>> F.l1_loss(torch.tensor([1.0, 4.0]), torch.tensor([0.0, 2.0]))
        tensor(1.5000)
    """
    x, t, w = accumulate(input, target, weight)
    return _reduce((x - t).abs(), w, reduction)


class L1Loss(LossModule, function=l1_loss):
    """Module of :func:`l1_loss`; `weight` is a buffer.

    Example:
        >>> fused_losses.L1Loss(reduction="sum")(torch.tensor([1.0, 4.0]), torch.tensor([0.0, 2.0]))
        tensor(3.)
    """


@loss(
    shape=elementwise_shape,
    check=check_weighted,
    operands=weighted_operands,
    options={"delta": Number(low=0, open=True)},
)
def huber_loss(input, target, reduction="mean", delta=1.0, *, weight=None):
    """Huber's loss: squared error near 0, absolute error beyond delta.

    .. math:: w \\cdot \\begin{cases} d^2/2 & |d| \\le \\delta \\\\ \\delta (|d| - \\delta/2) & \\text{else}
        \\end{cases}, \\quad d = x-t

    Args:
        input: x, any shape; float32, float64, float16 or bfloat16.
        target: t, the input's shape; floating, bool, uint8, int32 or int64.
        reduction: "none", "mean" (the sum over the number of elements, or over the sum of the broadcast weights) or
            "sum".
        delta: where the two parts meet, > 0.
        weight: w, broadcast to the input's shape from the last dimension.

    Returns:
        A scalar, or the input's shape with "none"; float64 for a float64 input, else float32.

    NaN propagates; the mean of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device, reduction or delta.
    Huber (1964), "Robust estimation of a location parameter"; same as :func:`torch.nn.functional.huber_loss`, except
    that torch's mean with a weight divides by the number of elements.

    Example:
        >>> F.huber_loss(torch.tensor([0.5, 4.0]), torch.zeros(2), "none", delta=1.0)
        tensor([0.1250, 3.5000])
    """
    x, t, w = accumulate(input, target, weight)
    return _reduce(huber(x - t, delta), w, reduction)


class HuberLoss(LossModule, function=huber_loss):
    """Module of :func:`huber_loss`; `weight` is a buffer.

    Example:
        >>> fused_losses.HuberLoss(delta=2.0)(torch.tensor([0.5, 4.0]), torch.zeros(2))
        tensor(3.0625)
    """


@loss(
    shape=elementwise_shape,
    check=check_weighted,
    operands=weighted_operands,
    options={"beta": Number(low=0, divides=True)},
)
def smooth_l1_loss(input, target, reduction="mean", beta=1.0, *, weight=None):
    """Absolute error, rounded off by a parabola within beta.

    .. math:: w \\cdot \\begin{cases} d^2/(2\\beta) & |d| < \\beta \\\\ |d| - \\beta/2 & \\text{else}
        \\end{cases}, \\quad d = x-t

    Args:
        input: x, any shape; float32, float64, float16 or bfloat16.
        target: t, the input's shape; floating, bool, uint8, int32 or int64.
        reduction: "none", "mean" (the sum over the number of elements, or over the sum of the broadcast weights) or
            "sum".
        beta: where the two parts meet, not negative; 0 gives :func:`l1_loss`.
        weight: w, broadcast to the input's shape from the last dimension.

    Returns:
        A scalar, or the input's shape with "none"; float64 for a float64 input, else float32.

    NaN propagates; the mean of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device, reduction or beta.
    Girshick (2015), "Fast R-CNN"; same as :func:`torch.nn.functional.smooth_l1_loss`.

    Example:
        >>> F.smooth_l1_loss(torch.tensor([0.5, 4.0]), torch.zeros(2), "none", beta=2.0)
        tensor([0.0625, 3.0000])
    """
    x, t, w = accumulate(input, target, weight)
    d = x - t
    return _reduce(d.abs() if beta == 0 else huber(d, beta) / beta, w, reduction)


class SmoothL1Loss(LossModule, function=smooth_l1_loss):
    """Module of :func:`smooth_l1_loss`; `weight` is a buffer.

    Example:
        >>> fused_losses.SmoothL1Loss(beta=2.0)(torch.tensor([0.5, 4.0]), torch.zeros(2))
        tensor(1.5312)
    """

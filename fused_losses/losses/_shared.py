"""What losses of several families share: reductions, dtypes, shapes of results, stable pieces of formulas."""

from __future__ import annotations

import torch

from .._op import NONE, accumulation_dtype


def accumulate(*tensors):
    """The tensors in the accumulation dtype of the first; None stays None."""
    dtype = accumulation_dtype(tensors[0].dtype)
    return [t if t is None or t.dtype is dtype else t.to(dtype) for t in tensors]


def valid(values: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """NaN for what a kernel refuses: plain PyTorch looks at no value."""
    return torch.where(allowed, values, float("nan"))


def valid_mask(given: torch.Tensor, values: torch.Tensor, ignore_index: float | None = None) -> torch.Tensor:
    """`values` of the target `given`: one of integers is a mask of 0, 1 and ignore_index."""
    if given.is_floating_point() or given.dtype is torch.bool:
        return values
    allowed = (values == 0) | (values == 1)
    return valid(values, allowed if ignore_index is None else allowed | (values == ignore_index))


def widened(x: torch.Tensor) -> torch.Tensor:
    """`x` in float64; as it is on a device without (MPS)."""
    return x if x.device.type == "mps" else x.double()


def reduce(loss: torch.Tensor, reduction: str, denominator=None) -> torch.Tensor:
    """Apply `reduction`; mean and batchmean divide by `denominator` (default: the elements, loss.shape[0])."""
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "batchmean" and denominator is None:
        return loss.sum() / loss.shape[0]
    return loss.sum() / (loss.numel() if denominator is None else denominator)


def reduce_weighted(loss, weight, reduction: str, ignored=None) -> torch.Tensor:
    """`reduce` of loss times weight; the mean is over the elements not ignored, whatever their weights."""
    loss = loss if weight is None else loss * weight
    if ignored is None:
        return reduce(loss, reduction)
    return reduce(torch.where(ignored, 0, loss), reduction, (~ignored).sum())


def softplus(x: torch.Tensor) -> torch.Tensor:
    """log(1 + e^x), exact for any finite x, and so are its derivatives of any order.

    Of operations that a sharded tensor has rules for; logsigmoid's derivative is none of them.
    """
    return x.clamp(min=0) + torch.log1p(torch.exp(torch.where(x < 0, x, -x)))


def scalar_shape(tensors, options, reduction):
    """A scalar, whatever the reduction."""
    return ()


def leading_shape(tensors, options, reduction):
    """The first tensor's shape without its last dimension for "none", else a scalar."""
    return tensors[0].shape[:-1] if reduction == NONE else ()


def elementwise_shape(tensors, options, reduction):
    """The input's shape for "none", else a scalar."""
    return tensors[0].shape if reduction == NONE else ()


def rows_shape(tensors, options, reduction):
    """One result for each row of the first tensor for "none", else a scalar."""
    return tensors[0].shape[:1] if reduction == NONE else ()


def without(dropped: torch.Tensor, *tensors):
    """The tensors with 0 where `dropped`, so that nothing there, NaN included, reaches a value or a gradient."""
    return [t if t is None else torch.where(dropped, 0, t) for t in tensors]


def with_classes(target: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
    """The target of an input (B, C, ...); the mask (B, ...) of a single class is the one of (B, 1, ...)."""
    return target.unsqueeze(1) if target.ndim < input.ndim and input.shape[1] == 1 else target


def one_hot(classes: torch.Tensor, like: torch.Tensor, ignore_index: int | None):
    """The target of the shape of `like` that class indices (B, ...) stand for, and (B, 1, ...) where they count.

    0 where ignored; without an ignore_index the second is None.
    """
    index = classes.long().unsqueeze(1)
    if ignore_index is None:
        return torch.zeros_like(like).scatter(1, index, 1.0), None
    counted = index != ignore_index
    target = torch.zeros_like(like).scatter(1, torch.where(counted, index, 0), 1.0)
    return torch.where(counted, target, 0), counted


def exp_excess(x: torch.Tensor) -> torch.Tensor:
    """e^x - 1 - x to a few eps, not negative; infinity at infinity (1000 is beyond the overflow of e^x)."""
    small = x.abs() < 0.25
    near = torch.where(small, x, 0)
    series = 1 + near / 14
    for k in range(13, 2, -1):
        series = 1 + near / k * series
    return torch.where(small, near**2 / 2 * series, torch.expm1(x) - x.clamp(max=1000))


def times(factor: torch.Tensor, log_value: torch.Tensor) -> torch.Tensor:
    """factor * log_value, 0 (and gradient 0) where the factor is 0 and the logarithm infinite."""
    limit = (factor == 0) & log_value.isinf()
    return torch.where(limit, 0, torch.where(limit, 0, factor) * torch.where(limit, 0, log_value))


def log_add_exp(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """log(e^a + e^b), also where one of them is -inf; right under derivatives of any order."""
    high, low = torch.where(a < b, b, a), torch.where(a < b, a, b)
    return high + softplus(low - high)


def readable(weight: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
    """A weight that broadcasts to the input, in a form the elementwise kernels read.

    They read one of one element, of the input's shape, or whose dimensions other than one form a single run that
    matches the input's; any other is expanded here.
    """
    given, shape = weight.shape, input.shape
    if given == shape:  # no dimension is compared with 1, which a size only known at run time refuses
        return weight
    trailing = shape[len(shape) - len(given) :]
    spans = [i for i, g in enumerate(given) if g != 1]
    if spans and any(given[i] != trailing[i] for i in range(spans[0], spans[-1] + 1)):
        return weight.expand(shape)
    return weight

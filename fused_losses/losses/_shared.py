"""What the references and the ops of several families share: reductions, dtypes, stable pieces of formulas."""

from __future__ import annotations

import torch

from .._ops import NONE, accumulation_dtype


def accumulate(*tensors):
    """The tensors in the accumulation dtype of the first; None stays None."""
    dtype = accumulation_dtype(tensors[0].dtype)
    return [t if t is None else t.to(dtype) for t in tensors]


def reduce(loss: torch.Tensor, reduction: str, denominator=None) -> torch.Tensor:
    """Apply `reduction`; the mean is over `denominator` (default: the elements), batchmean over loss.shape[0]."""
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "batchmean":
        return loss.sum() / loss.shape[0]
    return loss.sum() / (loss.numel() if denominator is None else denominator)


def softplus(x: torch.Tensor) -> torch.Tensor:
    """log(1 + e^x), exact for any finite x, and so are its derivatives of any order."""
    return -torch.nn.functional.logsigmoid(-x)


def elementwise_shape(tensors, options, reduction):
    """The input's shape for "none", else a scalar."""
    return tensors[0].shape if reduction == NONE else ()

"""Comparison of a public function with an independent source in float64."""

from __future__ import annotations

import functools

import pytest
import torch
from tolerances import assert_agrees

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=[str(d).removeprefix("torch.") for d in DTYPES])
each_reduction = pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
each_divergence_reduction = pytest.mark.parametrize("reduction", ["none", "mean", "sum", "batchmean"])


def reduced(loss: torch.Tensor, reduction: str, denominator=None) -> torch.Tensor:
    """`reduction` of an independent loss, its mean over `denominator` where that is not the number of elements."""
    if reduction == "none":
        return loss
    return loss.sum() / (1 if reduction == "sum" else loss.numel() if denominator is None else denominator)


def assert_same(ours, theirs, *tensors: torch.Tensor, dtype, device, gradients=(0,), elementwise=False) -> None:
    """ours(*tensors) in `dtype` and theirs in float64 agree, values and gradients to the tensors in `gradients`.

    Both see the same numbers: floating tensors are rounded to `dtype` first. The incoming gradient is random. Of an
    elementwise loss a gradient, and the loss without reduction, is of one element: no sum to allow for.
    """
    rounded = [t.detach().to(dtype) if t.is_floating_point() else t for t in tensors]
    given = [t.to(device) for t in rounded]
    exact = [t.double() if t.is_floating_point() else t for t in rounded]
    for i in gradients:
        given[i].requires_grad_()
        exact[i] = exact[i].clone().requires_grad_()
    actual, expected = ours(*given), theirs(*exact)
    n = max(t.numel() for t in tensors)
    assert_agrees(actual, expected, n_terms=1 if elementwise and actual.dim() else n, label="loss")
    incoming = torch.randn(expected.shape, dtype=torch.float64).to(actual.dtype)
    found = torch.autograd.grad(actual, [given[i] for i in gradients], incoming.to(device))
    wanted = torch.autograd.grad(expected, [exact[i] for i in gradients], incoming.double())
    for i, one, other in zip(gradients, found, wanted):
        assert one.dtype is dtype
        terms = 1 if elementwise and one.shape == tensors[0].shape else n
        assert_agrees(one, other, n_terms=terms, label=f"gradient of argument {i}")


assert_elementwise = functools.partial(assert_same, elementwise=True)

"""The one place that says how close is close enough, derived from machine epsilon and the number of summed terms.

A result is a formula of at most `OPERATIONS` correctly rounded steps, evaluated and summed in the accumulation dtype
(float64 for float64, else float32) and rounded once to the dtype it is stored in. A sum of n terms of mixed order errs
by about sqrt(n) roundings; `SUM_FACTOR` is the safety factor on that estimate. `Problem.terms` says how many terms
there are: one for a result of a single element, whatever the size of the tensor.
"""

from __future__ import annotations

import math

import torch

OPERATIONS = 24
SUM_FACTOR = 4.0


def accumulation_eps(dtype: torch.dtype) -> float:
    """Machine epsilon of the dtype that sums are taken in."""
    return torch.finfo(torch.float64 if dtype is torch.float64 else torch.float32).eps


def tolerance(dtype: torch.dtype, n_terms: int = 1, magnitude: float = 0.0) -> dict[str, float]:
    """rtol and atol for values of order one in `dtype`, each a sum of `n_terms` terms.

    magnitude: of logits whose difference is rounded before its exponential, which multiplies that error by it. A loss
    of half-precision input is returned in float32: ask for float32 there, for the input's dtype with gradients.
    """
    roundings = OPERATIONS + SUM_FACTOR * math.sqrt(max(n_terms, 1)) + 2 * magnitude
    rtol = torch.finfo(dtype).eps + accumulation_eps(dtype) * roundings
    return {"rtol": rtol, "atol": rtol}


def largest(t: torch.Tensor) -> float:
    """Its largest finite magnitude, 0 if there is none."""
    return t.abs().nan_to_num_(0, 0, 0).max().item() if t.numel() else 0.0


def assert_agrees(
    actual: torch.Tensor,
    expected: torch.Tensor,
    dtype=None,
    n_terms: int = 1,
    label: str = "",
    *,
    magnitude: float = 0.0,
    at_least: float = 0.0,
    room: torch.Tensor | None = None,
) -> None:
    """`actual` equals `expected` (same shape; any dtype, usually float64) within `tolerance`.

    The absolute part is scaled by the largest finite magnitude expected, so that cancelling terms are judged by the
    size of what was summed and a gradient of order 1/N is not passed by an atol of order one; `at_least` is a magnitude
    known otherwise, where all of them may have cancelled; `room` is how far each element may be off beside. NaN equals
    NaN.
    """
    dtype = dtype or actual.dtype
    assert actual.shape == expected.shape, f"{label}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    limits = tolerance(dtype, n_terms, magnitude)
    a, b = (t.detach().double().cpu() for t in (actual, expected))
    atol = limits["atol"] * max(at_least, largest(b)) + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    if room is not None:
        off = a - b
        a = torch.where(off.abs() <= room, b, torch.where(off.isfinite(), a - off.sign() * room, a))
    if torch.allclose(a, b, rtol=limits["rtol"], atol=atol, equal_nan=True):
        return  # assert_close says more, and takes five times as long
    torch.testing.assert_close(
        a,
        b,
        rtol=limits["rtol"],
        atol=atol,
        equal_nan=True,
        msg=lambda text: f"{label}: {text}" if label else text,
    )

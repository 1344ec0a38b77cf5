"""Custom losses where a function jumps, bends or ends: values and derivatives as PyTorch's."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from fused_losses import custom

REMAINDERS = {
    "a floor": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "a floor by a number": lambda a, b: a.detach() // 0.1,  # which PyTorch does not differentiate
    "a floor of a number": lambda a, b: 1.5 // a.detach(),
    "remainder": torch.remainder,
    "remainder of a number": lambda a, b: (a + math.pi) % (2 * math.pi),
    "fmod": torch.fmod,
    "a product of two": lambda a, b: (a % 0.3) * torch.fmod(b, 0.7),
}


@custom.elementwise
def every_remainder(a, b, which):
    found = torch.zeros_like(a)
    for number, function in enumerate(REMAINDERS.values()):
        found = torch.where(which == number, function(a, b), found)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_remainders_are_torch_s_to_the_bit(dtype, custom_folder):
    """At multiples of the divisor, where its rounding decides, beyond the digits of a quotient, and at infinities."""
    some = [n / 10 for n in range(-12, 13)] + [-0.0, 3.0, 1e-5, 7e5, 1e30, -1e30, math.inf, -math.inf, math.nan]
    a, b = (t.flatten() for t in torch.meshgrid(*[torch.tensor(some, dtype=dtype)] * 2, indexing="ij"))
    leaves = [t.clone().requires_grad_() for t in (a, b)]
    assert_same = functools.partial(torch.testing.assert_close, rtol=0, atol=0, equal_nan=True)
    smooth = (a / b + 1.5 / a + b).isfinite()  # elsewhere 0 times what is not chosen is NaN
    for number, (name, function) in enumerate(REMAINDERS.items()):
        found = every_remainder(*leaves, torch.full_like(a, number), reduction="none")
        expected = function(*leaves)
        assert_same(found, expected, msg=lambda m, name=name: f"{name}: {m}")
        zeros = found == 0
        assert torch.equal(found[zeros].signbit(), expected[zeros].signbit()), name
        if expected.requires_grad:
            slopes = (torch.autograd.grad(v.sum(), leaves, materialize_grads=True) for v in (found, expected))
            assert_same(*([s[smooth] for s in pair] for pair in slopes), msg=f"derivative of {name}")

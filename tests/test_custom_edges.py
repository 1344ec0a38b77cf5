"""Custom losses where a function jumps, bends or ends: values and derivatives as PyTorch's."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from fused_losses import custom
from fused_losses.custom.ahead import build_losses


def of_two(function):
    """As a Python function, which alone is decorated."""
    return lambda a, b: function(a, b)


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


ENDS = {
    "xlogy": torch.xlogy,
    "xlog1py": lambda a, b: torch.special.xlog1py(a, b - 1),
    "entr": lambda a, b: torch.special.entr(a) * b,
    "a divergence": lambda a, b: torch.nn.functional.kl_div(b, a, reduction="none"),
    "of a logit": lambda a, b: torch.xlogy(a, torch.sigmoid(b)) - torch.special.xlog1py(a, -torch.sigmoid(b)),
}


def test_products_with_logarithms_are_torch_s_at_0(custom_folder):
    """A product with the logarithm of 0, and its slope, which at a factor of 0 is the logarithm."""
    a = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.4, 1.0, -0.5, math.nan], dtype=torch.float64)
    b = torch.tensor([0.3, 1.0, 0.0, math.nan, 0.7, 0.0, 0.5, 0.5], dtype=torch.float64)
    losses = [custom.elementwise(of_two(function), name="ends") for function in ENDS.values()]
    build_losses([loss.custom for loss in losses])
    for (name, function), loss in zip(ENDS.items(), losses):
        leaves, others = ([t.clone().requires_grad_() for t in (a, b)] for _ in range(2))
        found, expected = loss(*leaves, reduction="none"), function(*others)
        torch.testing.assert_close(found, expected, equal_nan=True, msg=lambda m, name=name: f"{name}: {m}")
        slopes = torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(expected.sum(), others)
        torch.testing.assert_close(*slopes, equal_nan=True, msg=lambda m, name=name: f"derivative of {name}: {m}")


def test_the_logarithm_of_a_probability_is_one_of_its_logit(custom_folder):
    """Far from 0, where the probability is 0, its logarithm and slope are numbers."""
    loss = custom.elementwise(ENDS["of a logit"], name="of_a_logit")
    t = torch.tensor([0.0, 0.0, 0.5, 1.0, 0.0], requires_grad=True)
    x = torch.tensor([-torch.inf, -200.0, -200.0, -200.0, 200.0], requires_grad=True)
    found = loss(t, x, reduction="none")
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, -100.0, -200.0, 0.0]))
    slopes = torch.autograd.grad(found.sum(), (t, x))
    torch.testing.assert_close(slopes[0][1:], torch.tensor([-200.0, -200.0, -200.0, 200.0]))
    torch.testing.assert_close(slopes[1], torch.tensor([0.0, 0.0, 0.5, 1.0, 0.0]))


BENDS = {
    "relu of a clamp": lambda a, b: torch.relu(a.clamp(min=0)) * b,
    "abs of a clamp": lambda a, b: (a - b).clamp(min=0).abs() * b,
    "relu of a maximum": lambda a, b: torch.relu(torch.maximum(a.abs(), b)),
    "relu of sums": lambda a, b: torch.relu(a.clamp(min=0) + b.clamp(min=0)),
    "relu of a square": lambda a, b: torch.relu((a - b) ** 2).abs(),
}


def test_bends_of_what_is_not_below_0_are_torch_s(custom_folder):
    losses = [custom.elementwise(function, name="bends") for function in BENDS.values()]
    build_losses([loss.custom for loss in losses])
    a, b = torch.tensor([[0.0, -0.0, 0.0, 1.0, -1.0, 2.0], [0.0, 0.0, -1.0, 1.0, 0.0, 1.0]], dtype=torch.float64)
    for (name, function), loss in zip(BENDS.items(), losses):
        leaves = [t.clone().requires_grad_() for t in (a, b)]
        found, expected = loss(*leaves, reduction="none"), function(*leaves)
        torch.testing.assert_close(found, expected, msg=lambda m, name=name: f"{name}: {m}")
        slopes = (torch.autograd.grad(v.sum(), leaves) for v in (found, expected))
        torch.testing.assert_close(*slopes, msg=lambda m, name=name: f"derivative of {name}: {m}")
    assert "abs_(" not in losses[-1].source
    assert "at_least_(" not in losses[-1].source


POWERS = {"any": lambda x, y: x**y, "not below 0": lambda x, y: x.abs() ** y}


def test_powers_are_torch_s_at_special_values(custom_folder):
    """Of ones, signed zeros, infinities, NaN and whole numbers below 0."""
    losses = [custom.elementwise(of_two(function), name="powers") for function in POWERS.values()]
    build_losses([loss.custom for loss in losses])
    some = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, math.inf, -math.inf, math.nan]
    for dtype in (torch.float32, torch.float64):
        x, y = (t.flatten() for t in torch.meshgrid(*[torch.tensor(some, dtype=dtype)] * 2, indexing="ij"))
        for (name, function), loss in zip(POWERS.items(), losses):
            found, expected = loss(x, y, reduction="none"), function(x, y)
            torch.testing.assert_close(found, expected, equal_nan=True, msg=lambda m, name=name: f"{name}: {m}")
            numbers = ~expected.isnan()
            assert torch.equal(found[numbers].signbit(), expected[numbers].signbit()), name


def test_a_clamp_between_tensors_has_torch_s_slopes(custom_folder):
    """Also where its bounds are equal or the lower is above the upper."""
    loss = custom.elementwise(lambda x, low, high: torch.clamp(x, low, high), name="clamped")
    places = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    tensors = [t.flatten() for t in torch.meshgrid(places, places, places, indexing="ij")]
    leaves, others = ([t.clone().requires_grad_() for t in tensors] for _ in range(2))
    found, expected = loss(*leaves, reduction="none"), torch.clamp(*others)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(expected.sum(), others))


def test_a_class_that_is_not_the_target_s_has_no_slope_of_its_own(custom_folder):
    """Its probability may be 0, where a power has none: as the kernel, so does plain PyTorch."""
    made = custom.softmax(lambda log_p, p, *, q=0.7: (1 - p**q) / q, name="of_a_power")
    loss = functools.partial(made, target=torch.tensor([0, 1, -100]), reduction="sum")
    x = torch.tensor([[200.0, 0.0], [0.5, 0.3], [200.0, 0.0]], requires_grad=True)
    slope = torch.autograd.grad(loss(x), x, create_graph=True)[0]
    assert slope.isfinite().all()
    assert torch.autograd.grad(slope.sum(), x)[0].isfinite().all()
    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), slope.detach())
    weighted = functools.partial(loss, weight=torch.tensor([2.0, 3.0]))
    expected = torch.autograd.grad(weighted(x), x)[0]
    torch.testing.assert_close(torch.func.grad(weighted)(x.detach()), expected)
    mild, smoothed = x.detach() / 100, functools.partial(weighted, label_smoothing=0.1, reduction="mean")
    torch.testing.assert_close(torch.vmap(smoothed)(mild.unsqueeze(0))[0], smoothed(mild))


def test_hardswish_has_slopes_at_infinities(custom_folder):
    loss = custom.elementwise(lambda x: torch.nn.functional.hardswish(x), name="swish")
    x = torch.tensor([-torch.inf, torch.inf, -3.0, 3.0, 1.0], requires_grad=True)
    found, expected = loss(x, reduction="none"), torch.nn.functional.hardswish(x)
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert torch.autograd.grad(found.sum(), x)[0].tolist() == pytest.approx([0.0, 1.0, 0.0, 1.0, 5 / 6])

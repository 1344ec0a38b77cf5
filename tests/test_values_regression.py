"""Regression losses against PyTorch, SciPy, scikit-learn and the worked numbers of the book."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import torch
import torch.nn.functional as T
from independent import DTYPES, assert_elementwise, each_dtype, each_reduction, reduced
from tolerances import assert_agrees

from fused_losses import functional as F

SHAPE = (5, 4, 3, 7)
LOSSES = [
    pytest.param(F.mse_loss, T.mse_loss, {}, id="mse"),
    pytest.param(F.l1_loss, T.l1_loss, {}, id="l1"),
    pytest.param(F.huber_loss, T.huber_loss, {}, id="huber"),
    pytest.param(F.huber_loss, T.huber_loss, {"delta": 0.3}, id="huber-delta"),
    pytest.param(F.smooth_l1_loss, T.smooth_l1_loss, {}, id="smooth_l1"),
    pytest.param(F.smooth_l1_loss, T.smooth_l1_loss, {"beta": 0.3}, id="smooth_l1-beta"),
    pytest.param(F.smooth_l1_loss, T.smooth_l1_loss, {"beta": 0.0}, id="smooth_l1-beta0"),
]
each_loss = pytest.mark.parametrize("ours, theirs, options", LOSSES)
PREDICTION, TRUTH = [15.0, 18.0, 20.0, 22.0, 25.0], [17.0, 20.0, 18.0, 21.0, 20.0]


def numbers(shape=SHAPE):
    return torch.randn(shape, dtype=torch.float64)


@each_dtype
@each_reduction
@each_loss
def test_is_torchs(ours, theirs, options, dtype, reduction, device):
    assert_elementwise(
        lambda x, t: ours(x, t, reduction=reduction, **options),
        lambda x, t: theirs(x, t, reduction=reduction, **options),
        numbers(), numbers(), dtype=dtype, device=device, gradients=(0, 1),
    )  # fmt: skip


@pytest.mark.parametrize(
    "dtype, weighted",
    [(dtype, (4, 1, 1)) for dtype in DTYPES if dtype is not torch.float64]
    + [(torch.float64, shape) for shape in (SHAPE, (1,), (), (7,), (4, 1, 1), (5, 1, 1, 1), (4, 1, 7))],
)
@each_reduction
@each_loss
def test_weighted(ours, theirs, options, dtype, reduction, weighted, device):
    """The mean divides by the sum of the weights broadcast to the input."""

    def formula(x, t, w):
        w = w.broadcast_to(SHAPE)
        return reduced(theirs(x, t, reduction="none", **options) * w, reduction, w.sum())

    assert_elementwise(
        lambda x, t, w: ours(x, t, reduction=reduction, weight=w, **options),
        formula,
        numbers(), numbers(), 0.1 + torch.rand(weighted, dtype=torch.float64),
        dtype=dtype, device=device, gradients=(0, 1),
    )  # fmt: skip


def test_weighted_mse_is_torchs():
    x, t, w = numbers(), numbers(), torch.rand(SHAPE, dtype=torch.float64)
    assert_agrees(F.mse_loss(x, t, weight=w), T.mse_loss(x, t, weight=w), n_terms=x.numel())


def test_the_books_numbers():
    prediction, truth = torch.tensor(PREDICTION), torch.tensor(TRUTH)
    assert F.l1_loss(prediction, truth).item() == pytest.approx(2.4, rel=1e-6)
    assert F.mse_loss(prediction, truth).item() == pytest.approx(7.6, rel=1e-6)


def test_is_scikit_learns():
    x, t, w = torch.tensor(PREDICTION), torch.tensor(TRUTH), torch.tensor([1.0, 2.0, 0.5, 3.0, 0.0])
    for ours, theirs in (
        (F.mse_loss, sklearn.metrics.mean_squared_error),
        (F.l1_loss, sklearn.metrics.mean_absolute_error),
    ):
        assert ours(x, t, weight=w).item() == pytest.approx(theirs(t, x, sample_weight=w), rel=1e-6)


@pytest.mark.parametrize("delta", [0.1, 1.0, 2.5])
def test_huber_is_scipys(delta):
    d = np.array([-3.0, -2.5, -1.0, -0.1, 0.0, 0.05, 0.1, 0.7, 1.0, 2.5, 1e8])
    ours = F.huber_loss(torch.tensor(d), torch.zeros(len(d)), reduction="none", delta=delta)
    np.testing.assert_allclose(ours.numpy(), scipy.special.huber(delta, d), rtol=1e-14)
    ours = F.smooth_l1_loss(torch.tensor(d), torch.zeros(len(d)), reduction="none", beta=delta)
    np.testing.assert_allclose(ours.numpy(), scipy.special.huber(delta, d) / delta, rtol=1e-14)


@each_loss
def test_gradient_at_the_minimum_and_at_the_kink(ours, theirs, options, device):
    """0 where input and target are equal; where the parabola meets the line both sides agree."""
    x = torch.tensor([0.0, 1.0, -1.0, 0.3, -0.3], device=device, requires_grad=True)
    y = x.detach().cpu().clone().requires_grad_()
    ours(x, torch.zeros(5, device=device), reduction="sum", **options).backward()
    theirs(y, torch.zeros(5), reduction="sum", **options).backward()
    assert x.grad[0] == 0
    assert_agrees(x.grad, y.grad)


@each_loss
def test_infinite_differences(ours, theirs, options, device):
    """The loss is infinite; the gradient is that of the line, bounded where there is a line."""
    x = torch.tensor([torch.inf, -torch.inf], device=device, requires_grad=True)
    loss = ours(x, torch.zeros(2, device=device), reduction="none", **options)
    loss.sum().backward()
    assert loss.tolist() == [torch.inf, torch.inf]
    slope = torch.inf if ours is F.mse_loss else options.get("delta", 1.0)
    assert_agrees(x.grad, torch.tensor([slope, -slope]))


def gradient_descent(x, y, weight, bias, steps, rate=0.1):
    """(loss before the step, weight and bias after it) for each step of the fused mean squared error."""
    history = []
    for _ in range(steps):
        leaves = [p for p in (weight, bias) if p.requires_grad]
        loss = F.mse_loss(weight * x + bias, y)
        with torch.no_grad():
            for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves)):
                leaf -= rate * gradient
        history.append((loss.item(), weight.item(), bias.item()))
    return history


def agrees(computed: float, printed: float, digits: int) -> bool:
    """Within one unit of the last printed digit."""
    return abs(computed - printed) <= 10.0**-digits


def test_the_books_gradient_descent_of_one_weight():
    x, y = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([2.0, 3.0, 4.0, 5.0])
    printed = {1: (13.5, 2.0), 2: (3.5, 1.0), 3: (1.0, 1.5), 4: (0.375, 1.25), 5: (0.2188, 1.375), 6: (0.1796, 1.3125),
               10: (0.1667, 1.3320)}  # fmt: skip
    history = gradient_descent(x, y, torch.zeros((), requires_grad=True), torch.zeros(()), 60)
    for step, (loss, weight) in printed.items():
        assert agrees(history[step - 1][0], loss, 4)
        assert agrees(history[step - 1][1], weight, 4)
    assert history[-1][1] == pytest.approx(4 / 3, rel=1e-6)


def test_the_books_gradient_descent_of_weight_and_bias():
    x, y = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([2.0, 3.0, 4.0, 5.0])
    printed = {1: (13.5, 2.0, 0.7), 2: (6.09, 0.65, 0.26), 3: (2.761, 1.545, 0.583), 4: (1.265, 0.936, 0.394),
               5: (0.592, 1.335, 0.547), 6: (0.288, 1.059, 0.47), 10: (0.044, 1.127, 0.556), 15: (0.025, 1.13, 0.626),
               20: (0.018, 1.109, 0.678), 233: (0.0, 1.0, 1.0)}  # fmt: skip
    weight, bias = torch.zeros((), requires_grad=True), torch.zeros((), requires_grad=True)
    first = torch.autograd.grad(F.mse_loss(weight * x + bias, y), (weight, bias))
    assert [g.item() for g in first] == pytest.approx([-20, -7])
    history = gradient_descent(x, y, weight, bias, 233)
    for step, values in printed.items():
        digits = 2 if step == 2 else 3
        assert all(agrees(a, b, digits) for a, b in zip(history[step - 1], values)), (step, history[step - 1])

"""Binary losses against PyTorch, SciPy, scikit-learn, torchvision's formula and hand numbers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import torch
import torch.nn.functional as T
from independent import assert_elementwise, each_dtype, each_reduction, reduced
from tolerances import assert_agrees

from fused_losses import functional as F

SHAPE = (4, 3, 5, 7)
GAMMAS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)


def logits(shape=SHAPE):
    return 3 * torch.randn(shape, dtype=torch.float64)


def probabilities(shape=SHAPE):
    return 0.02 + 0.96 * torch.rand(shape, dtype=torch.float64)


def soft(shape=SHAPE):
    return torch.rand(shape, dtype=torch.float64)


def hard(shape=SHAPE):
    return torch.randint(0, 2, shape)


@each_dtype
@each_reduction
def test_binary_cross_entropy_is_torchs(dtype, reduction, device):
    weight = torch.rand(3, 1, 1, dtype=torch.float64)
    assert_elementwise(
        lambda p, t, w: F.binary_cross_entropy(p, t, w, reduction),
        lambda p, t, w: T.binary_cross_entropy(p, t, w.expand(SHAPE), reduction=reduction),
        probabilities(), soft(), weight, dtype=dtype, device=device,
    )  # fmt: skip


def test_binary_cross_entropy_of_the_book():
    p, y = torch.tensor([0.9, 0.2, 0.6]), torch.tensor([1.0, 0.0, 1.0])
    each = F.binary_cross_entropy(p, y, reduction="none")
    assert [round(v, 3) for v in each.tolist()] == [0.105, 0.223, 0.511]
    assert round(F.binary_cross_entropy(p, y).item(), 3) == 0.28
    assert F.binary_cross_entropy(p.double(), y).item() == pytest.approx(sklearn.metrics.log_loss(y, p), rel=1e-7)


def test_binary_cross_entropy_at_certainty(device):
    """Logarithms are clamped at -100 and the gradient is (p-t) / max(p(1-p), 1e-12)."""
    p = torch.tensor([0.0, 1.0, 0.0, 1.0, 1e-13, 0.0], dtype=torch.float64, device=device, requires_grad=True)
    t = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.5, 0.25], dtype=torch.float64, device=device)
    loss = F.binary_cross_entropy(p, t, reduction="none")
    small = -0.5 * np.log(1e-13)
    assert_agrees(loss, torch.tensor([100.0, 100.0, 0.0, 0.0, small, 25.0], dtype=torch.float64))
    loss.sum().backward()
    expected = torch.tensor([-1.0, 1.0, 0.0, 0.0, 1e-13 - 0.5, -0.25], dtype=torch.float64) / 1e-12
    assert_agrees(p.grad, expected)
    q = p.detach().clone().requires_grad_()
    T.binary_cross_entropy(q, t, reduction="sum").backward()
    assert_agrees(q.grad, expected, torch.float32)  # torch keeps its 1e-12 in float32


@each_dtype
@each_reduction
def test_binary_cross_entropy_with_logits_is_torchs(dtype, reduction, device):
    weight, pos_weight = torch.rand(4, 1, 1, 1, dtype=torch.float64), 0.5 + torch.rand(7, dtype=torch.float64)
    assert_elementwise(
        lambda x, t, w, p: F.binary_cross_entropy_with_logits(x, t, w, reduction, p),
        lambda x, t, w, p: T.binary_cross_entropy_with_logits(x, t, w, reduction=reduction, pos_weight=p),
        logits(), soft(), weight, pos_weight, dtype=dtype, device=device,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float16, torch.float64])
def test_target_dtypes(kind, device):
    x, t = logits().float(), hard()
    expected = T.binary_cross_entropy_with_logits(x.double(), t.double())
    assert_agrees(F.binary_cross_entropy_with_logits(x.to(device), t.to(kind).to(device)), expected, n_terms=x.numel())


def test_binary_cross_entropy_with_logits_is_scipys():
    x, t = np.array([-1e4, -30.0, -1.0, 0.0, 2.5, 40.0, 1e4]), np.array([1.0, 0.0, 0.3, 0.5, 1.0, 0.0, 1.0])
    expected = -t * scipy.special.log_expit(x) - (1 - t) * scipy.special.log_expit(-x)
    ours = F.binary_cross_entropy_with_logits(torch.tensor(x), torch.tensor(t), reduction="none")
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-13)


@each_dtype
@each_reduction
def test_weighted_binary_cross_entropy_by_its_formula(dtype, reduction, device):
    """weight = t w1 + (1-t) w0; the mean is over the elements."""
    assert_elementwise(
        lambda p, t: F.weighted_binary_cross_entropy(p, t, (1.0, 2.0), reduction),
        lambda p, t: reduced((t * 2 + (1 - t)) * -(t * p.log() + (1 - t) * (1 - p).log()), reduction),
        probabilities(), soft(), dtype=dtype, device=device,
    )  # fmt: skip


def test_weighted_binary_cross_entropy_by_hand():
    p, t = torch.tensor([0.9, 0.2, 0.6], dtype=torch.float64), torch.tensor([1, 0, 1], dtype=torch.uint8)
    loss = F.weighted_binary_cross_entropy(p, t, class_weights=[1.0, 2.0], reduction="sum")
    assert loss.item() == pytest.approx(-2 * np.log(0.9) - np.log(0.8) - 2 * np.log(0.6))
    x = torch.from_numpy(scipy.special.logit(p.numpy()))
    loss = F.weighted_binary_cross_entropy_with_logits(x, t, class_weights=[1.0, 2.0], reduction="sum")
    assert loss.item() == pytest.approx(-2 * np.log(0.9) - np.log(0.8) - 2 * np.log(0.6))


@each_dtype
@each_reduction
def test_weighted_binary_cross_entropy_with_logits_by_its_formula(dtype, reduction, device):
    target = hard()
    target[::2, :, 1] = 255

    def formula(x, w, p):
        counts = (target != 255).double()
        y = target.clamp(max=1).double() * 0.9 + 0.05
        loss = T.binary_cross_entropy_with_logits(x, y, w, reduction="none", pos_weight=p)
        return reduced(loss * (y * 3.0 + (1 - y) * 0.5) * counts, reduction, counts.sum())

    kind = target.to(torch.uint8).to(device)
    assert_elementwise(
        lambda x, w, p: F.weighted_binary_cross_entropy_with_logits(
            x, kind, (0.5, 3.0), reduction, weight=w, pos_weight=p, ignore_index=255, label_smoothing=0.1
        ),
        formula,
        logits(), torch.rand(3, 5, 7, dtype=torch.float64), torch.rand(3, 1, 1, dtype=torch.float64),
        dtype=dtype, device=device,
    )  # fmt: skip


def test_weights_of_one_change_nothing(device):
    x, t = logits().float().to(device), soft().float().to(device)
    plain = F.binary_cross_entropy_with_logits(x, t)
    assert_agrees(F.weighted_binary_cross_entropy_with_logits(x, t), plain)
    assert_agrees(F.weighted_binary_cross_entropy(x.sigmoid(), t), plain, n_terms=x.numel())


def torchvision_focal(x, t, alpha, gamma, reduction):
    """torchvision.ops.sigmoid_focal_loss."""
    p = torch.sigmoid(x)
    ce = T.binary_cross_entropy_with_logits(x, t, reduction="none")
    p_t = p * t + (1 - p) * (1 - t)
    loss = ce * ((1 - p_t) ** gamma)
    if alpha >= 0:
        loss = (alpha * t + (1 - alpha) * (1 - t)) * loss
    return reduced(loss, reduction)


@each_dtype
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha, reduction", [(0.25, "none"), (-1, "mean"), (0.7, "sum")])
def test_sigmoid_focal_loss_is_torchvisions(dtype, gamma, alpha, reduction, device):
    shape = (3, 41)
    for target in (soft(shape), hard(shape).double()):
        assert_elementwise(
            lambda x, t: F.sigmoid_focal_loss(x, t, alpha, gamma, reduction),
            lambda x, t: torchvision_focal(x, t, alpha, gamma, reduction),
            logits(shape), target, dtype=dtype, device=device,
        )  # fmt: skip


def test_sigmoid_focal_loss_gamma_0_is_bce(device):
    for x in (logits().float(), torch.tensor([1e4, -1e4, 60.0, -60.0])):
        t = torch.rand_like(x)
        focal = F.sigmoid_focal_loss(x.to(device), t.to(device), alpha=-1, gamma=0, reduction="none")
        assert_agrees(focal, T.binary_cross_entropy_with_logits(x.double(), t.double(), reduction="none"))


def test_sigmoid_focal_loss_by_hand():
    """x = 0: p_t = 1/2; the defaults give 0.25 * 2^-2 * log 2 for a positive and three times that for a negative."""
    loss = F.sigmoid_focal_loss(torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.0]))
    np.testing.assert_allclose(loss.numpy(), [np.log(2) / 16, 3 * np.log(2) / 16], rtol=1e-15)


def test_sigmoid_focal_loss_weights_and_ignored(device):
    target = hard()
    target[1] = 255

    def formula(x, w, p):
        counts = (target != 255).double()
        t = target.clamp(max=1).double()
        q = torch.sigmoid(x) * (1 - t) + (1 - torch.sigmoid(x)) * t
        ce = T.binary_cross_entropy_with_logits(x, t, w, reduction="none", pos_weight=p)
        return ((0.6 * t + 0.4 * (1 - t)) * q**1.5 * ce * counts).sum() / counts.sum()

    given = target.float().to(device)
    assert_elementwise(
        lambda x, w, p: F.sigmoid_focal_loss(x, given, 0.6, 1.5, "mean", weight=w, pos_weight=p, ignore_index=255),
        formula,
        logits(), torch.rand(3, 1, 1, dtype=torch.float64), torch.rand(7, dtype=torch.float64),
        dtype=torch.float32, device=device,
    )  # fmt: skip


def saturated_focal(x: float, t: float, gamma: float) -> tuple[float, float]:
    """Loss and gradient of a hard target without alpha, by logarithms."""
    z = x if t == 1 else -x  # p_t = expit(z)
    log_q, ce, sign = scipy.special.log_expit(-z), -scipy.special.log_expit(z), 1 if t == 1 else -1
    factor = np.exp(gamma * log_q)
    return factor * ce, sign * factor * (-np.exp(log_q) - gamma * scipy.special.expit(z) * ce)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_sigmoid_focal_loss_of_saturated_logits(gamma, device):
    """Finite and right also for gamma < 1, where a power of 1 - p_t has an infinite derivative at 0."""
    points = [(x, t) for x in (40.0, -40.0, 110.0, -110.0, 1e4, -1e4) for t in (0.0, 1.0)]
    x = torch.tensor([p[0] for p in points], device=device, requires_grad=True)
    t = torch.tensor([p[1] for p in points], device=device)
    loss = F.sigmoid_focal_loss(x, t, alpha=-1, gamma=gamma, reduction="none")
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    expected = np.array([saturated_focal(*p, gamma) for p in points])
    tiny = torch.finfo(torch.float32).tiny
    # An exponent of size |gamma x| is rounded before exp, so the relative error grows with it up to underflow at 88.
    np.testing.assert_allclose(loss.detach().cpu(), expected[:, 0], rtol=3e-5, atol=tiny)
    np.testing.assert_allclose(gradient.cpu(), expected[:, 1], rtol=3e-5, atol=tiny)


@each_dtype
@each_reduction
@pytest.mark.parametrize("squared", [False, True])
def test_hinge_loss_by_its_formula(dtype, reduction, squared, device):
    def formula(x, t):
        slack = torch.maximum(0.7 - t * x, torch.zeros(()))
        return reduced(slack**2 if squared else slack, reduction)

    assert_elementwise(
        lambda x, t: F.hinge_loss(x, t, 0.7, reduction, squared=squared),
        formula,
        logits(), hard().double() * 2 - 1, dtype=dtype, device=device,
    )  # fmt: skip


def test_hinge_loss_is_scikit_learns():
    x, t = logits((50,)), hard((50,)).double() * 2 - 1
    assert F.hinge_loss(x, t).item() == pytest.approx(sklearn.metrics.hinge_loss(t.numpy(), x.numpy()), rel=1e-14)


@pytest.mark.parametrize(
    "squared, loss, gradient", [(False, [0, 1, 2, 0], [0, -1, 1, 0]), (True, [0, 1, 4, 0], [0, -2, 4, 0])]
)
def test_hinge_loss_by_hand(squared, loss, gradient, device):
    """At the kink t x = margin the gradient is 0."""
    x = torch.tensor([1.0, 0.0, 1.0, -5.0], device=device, requires_grad=True)
    t = torch.tensor([1.0, 1.0, -1.0, -1.0], device=device)
    found = F.hinge_loss(x, t, reduction="none", squared=squared)
    found.sum().backward()
    assert found.tolist() == loss
    assert x.grad.tolist() == gradient


CLASS_SHAPES = ((2, 3), (3, 1000), (2, 3, 5), (2, 5, 15), (1, 3, 16), (2, 2, 33, 33), (2, 3, 4100), (1, 2, 9001))


@pytest.mark.parametrize("shape", CLASS_SHAPES, ids=str)
@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64], ids=str)
def test_sigmoid_focal_loss_of_classes_is_that_of_their_one_hot_target(shape, kind, device):
    """Bit for bit where nothing is summed; an ignored class drops its positions from every class."""
    x = torch.randn(shape, device=device)
    classes = torch.randint(min(shape[1], 200), (shape[0], *shape[2:]), device=device)  # as uint8, too
    one_hot = T.one_hot(classes, shape[1]).movedim(-1, 1).float()
    weight = torch.rand(shape[1], *(1,) * (len(shape) - 2), device=device)
    for ignore_index in (None, 1, 200):
        target, given = one_hot, classes
        if ignore_index is not None:
            third = torch.arange(classes.numel(), device=device).view_as(classes) % 3 == 1
            given = torch.where(third, ignore_index, classes)
            target = torch.where((given == ignore_index).unsqueeze(1), -7.0, one_hot)
        of_classes = {"ignore_index": ignore_index, "weight": weight, "gamma": 1.5}
        dense = of_classes | {"ignore_index": None if ignore_index is None else -7}
        for reduction in ("none", "mean", "sum"):
            x1, x2 = (x.clone().requires_grad_() for _ in range(2))
            found = F.sigmoid_focal_loss(x1, given.to(kind), reduction=reduction, **of_classes)
            expected = F.sigmoid_focal_loss(x2, target, reduction=reduction, **dense)
            incoming = torch.rand_like(found)
            found.backward(incoming)
            expected.backward(incoming)
            assert torch.equal(x1.grad, x2.grad)
            if reduction == "none":
                assert torch.equal(found, expected)
            else:
                assert_agrees(found.detach(), expected.detach().double(), n_terms=x.numel())


def test_sigmoid_focal_loss_refuses_a_class_out_of_range():
    x = torch.randn(2, 3, 5000)
    for kind in (torch.uint8, torch.int32, torch.int64):
        classes = torch.randint(3, (2, 5000)).to(kind)
        classes[1, 4321], classes[1, 4400] = 3, 100
        with pytest.raises(IndexError, match=r"class index in \[0, 3\), got 3 at flat index 9321"):
            F.sigmoid_focal_loss(x, classes)
        with pytest.raises(IndexError, match=r"class index in \[0, 3\) or ignore_index 3, got 100 at flat index 9400"):
            F.sigmoid_focal_loss(x, classes, ignore_index=3)
    with pytest.raises(RuntimeError, match=r"integer target to be 0, 1 or ignore_index, got 2 at flat"):  # a mask
        F.sigmoid_focal_loss(torch.randn(4, 1), torch.tensor([0, 1, 2, 0]))
    shapes, kinds = r"shape \(2, 3, 4\) or \(2, 4\)", "class indices of dtype"
    for wrong, words in ((torch.zeros(2, 5), shapes), (torch.zeros(2, 4), kinds)):
        with pytest.raises((ValueError, TypeError), match=words):
            F.sigmoid_focal_loss(torch.randn(2, 3, 4), wrong)
    with pytest.raises(ValueError, match="ignore_index to be an integer"):
        F.sigmoid_focal_loss(torch.randn(2, 3, 4), torch.zeros(2, 4, dtype=torch.int64), ignore_index=0.5)

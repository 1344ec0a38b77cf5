"""Cross-entropy and softmax focal loss against PyTorch, SciPy, scikit-learn, MONAI's formula and the book's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import torch
import torch.nn.functional as T
from independent import DTYPES, assert_same, each_reduction, reduced
from tolerances import assert_agrees

from fused_losses import functional as F

SHAPES = [(5,), (6, 5), (3, 5, 7), (2, 5, 3, 4), (2, 5, 2, 3, 2)]
F64 = torch.float64
GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
# Every dtype at one shape, every shape in float64.
each_dtype_and_shape = pytest.mark.parametrize(
    "dtype, shape", [(dtype, (3, 5, 7)) for dtype in DTYPES if dtype is not F64] + [(F64, shape) for shape in SHAPES]
)
weighted = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weight"])
smoothed = pytest.mark.parametrize("smoothing", [0.0, 0.2])


def logits(shape):
    return 2 * torch.randn(shape, dtype=torch.float64)


def classes(shape, ignored=None):
    """Class indices, about a quarter of them `ignored`, never the first."""
    target = torch.randint(0, shape[min(1, len(shape) - 1)], shape[:1] + shape[2:] if len(shape) > 1 else ())
    if ignored is not None and target.dim():
        drop = torch.rand(target.shape) < 0.25
        drop.view(-1)[0] = False
        target[drop] = ignored
    return target


def class_probabilities(shape):
    return torch.randn(shape, dtype=torch.float64).softmax(min(1, len(shape) - 1))


def per_class():
    return 0.2 + torch.rand(5, dtype=torch.float64)


@each_dtype_and_shape
@each_reduction
@weighted
@smoothed
def test_cross_entropy_of_indices_is_torchs(dtype, reduction, shape, weighted, smoothing, device):
    target, tensors = classes(shape, -100), [logits(shape)] + [per_class()] * weighted
    given = target.to(device)
    assert_same(
        lambda x, *w: F.cross_entropy(x, given, *w, reduction=reduction, label_smoothing=smoothing),
        lambda x, *w: T.cross_entropy(x, target, *w, reduction=reduction, label_smoothing=smoothing),
        *tensors, dtype=dtype, device=device,
    )  # fmt: skip


@each_dtype_and_shape
@each_reduction
@weighted
@smoothed
def test_cross_entropy_of_probabilities_is_torchs(dtype, reduction, shape, weighted, smoothing, device):
    assert_same(
        lambda x, y, *w: F.cross_entropy(x, y, *w, reduction=reduction, label_smoothing=smoothing),
        lambda x, y, *w: T.cross_entropy(x, y, *w, reduction=reduction, label_smoothing=smoothing),
        logits(shape), class_probabilities(shape), *[per_class()] * weighted, dtype=dtype, device=device,
    )  # fmt: skip


@pytest.mark.parametrize("kind, ignored", [(torch.uint8, 255), (torch.uint8, 3), (torch.int32, -1), (torch.int64, 0)])
def test_index_dtypes_and_ignored_index(kind, ignored, device):
    x, target = logits((9, 5, 4)), classes((9, 5, 4), ignored)
    expected = T.cross_entropy(x, target, ignore_index=ignored)
    given = target.to(kind).to(device)
    assert_agrees(F.cross_entropy(x.to(device), given, ignore_index=ignored), expected, n_terms=x.numel())
    assert_agrees(F.softmax_focal_loss(x.to(device), given, gamma=0, ignore_index=ignored), expected, n_terms=x.numel())


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8])
def test_one_hot_targets_are_the_indices(kind, device):
    x, target = logits((9, 5)).to(device), classes((9, 5)).to(device)
    one_hot = T.one_hot(target, 5).to(kind)
    assert_agrees(F.cross_entropy(x, one_hot), F.cross_entropy(x, target), n_terms=x.numel())
    assert_agrees(F.softmax_focal_loss(x, one_hot), F.softmax_focal_loss(x, target), n_terms=x.numel())


def test_the_books_categorical_cross_entropy():
    """One-hot rows of classes 0, 1, 3 of 4; p = .7 on the true class, .1 elsewhere."""
    target = torch.tensor([0, 1, 3])
    p = torch.full((3, 4), 0.1).scatter(1, target[:, None], 0.7)
    assert round(F.cross_entropy(p.log(), target).item(), 3) == 0.357
    assert round(F.cross_entropy(p.log(), T.one_hot(target, 4).float()).item(), 3) == 0.357


def test_cross_entropy_is_scikit_learns_and_scipys():
    x, target = logits((40, 5)), classes((40, 5))
    p = scipy.special.softmax(x.numpy(), axis=1)
    expected = sklearn.metrics.log_loss(target, p, labels=range(5))
    assert F.cross_entropy(x, target).item() == pytest.approx(expected, rel=1e-13)
    rows = -scipy.special.log_softmax(x.numpy(), axis=1)[np.arange(40), target]
    np.testing.assert_allclose(F.cross_entropy(x, target, reduction="none").numpy(), rows, rtol=1e-13)


def test_everything_ignored_gives_nan_and_no_gradient(device):
    for loss in (F.cross_entropy, F.softmax_focal_loss):
        for reduction, expected in (("mean", torch.nan), ("sum", 0.0)):
            x = torch.randn(4, 5, device=device, requires_grad=True)
            found = loss(x, torch.full((4,), -100, device=device), reduction=reduction)
            found.backward()
            torch.testing.assert_close(found.cpu(), torch.tensor(expected), equal_nan=True)
            assert x.grad.count_nonzero() == 0


def test_impossible_classes(device):
    """A logit of -inf: nothing where its probability is 0 (where torch gives NaN), infinity where it is not."""
    rows = [[1.0, -torch.inf, 2.0], [3.0, -torch.inf, -torch.inf]]
    x = torch.tensor(rows, dtype=torch.float64, device=device, requires_grad=True)
    certain = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64, device=device)
    p = np.exp(1) / (np.exp(1) + np.exp(2))
    for target in (certain, torch.tensor([0, 0], device=device)):
        for gamma in (0.0, 0.5, 2.0):
            loss = F.softmax_focal_loss(x, target, gamma=gamma, reduction="none")
            assert_agrees(loss, torch.tensor([(1 - p) ** gamma * -np.log(p), 0.0], dtype=torch.float64))
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            assert gradient.isfinite().all()
        loss = F.cross_entropy(x, target, reduction="none")
        assert_agrees(loss, torch.tensor([-np.log(p), 0.0], dtype=torch.float64))
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert_agrees(gradient, torch.tensor([[p - 1, 0, 1 - p], [0, 0, 0]], dtype=torch.float64))
    assert F.cross_entropy(x, torch.tensor([1, 1], device=device)).item() == torch.inf


def focal(x, y, alpha, gamma):
    """MONAI's softmax focal loss with a factor for each class: Σ_c y_c alpha_c (1 - p_c)^gamma (-log p_c)."""
    dim = min(1, x.dim() - 1)
    log_p = x.log_softmax(dim)
    alpha = alpha if x.dim() == 1 else alpha.view(-1, *[1] * (x.dim() - 2))
    return (y * alpha * (1 - log_p.exp()) ** gamma * -log_p).sum(dim)


def one_hot(target, classes):
    return T.one_hot(target.clamp(min=0), classes).movedim(-1, min(1, target.dim())).double()


@each_dtype_and_shape
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("reduction, smoothing", [("none", 0.0), ("mean", 0.0), ("mean", 1.0), ("sum", 0.2)])
def test_softmax_focal_loss_of_indices_by_its_formula(dtype, reduction, shape, gamma, smoothing, device):
    """The mean is over the positions that count, whatever their alpha."""
    target = classes(shape, -100)
    given, counts = target.to(device), (target != -100).double()

    def formula(x, alpha):
        y = one_hot(target, 5) * (1 - smoothing) + smoothing / 5
        return reduced(focal(x, y, alpha, gamma) * counts, reduction, counts.sum())

    assert_same(
        lambda x, a: F.softmax_focal_loss(x, given, a, gamma, reduction=reduction, label_smoothing=smoothing),
        formula,
        logits(shape), per_class(), dtype=dtype, device=device,
    )  # fmt: skip


@each_dtype_and_shape
@each_reduction
@pytest.mark.parametrize("alpha", [None, 0.3])
def test_softmax_focal_loss_of_probabilities_by_its_formula(dtype, reduction, shape, alpha, device):
    factor = torch.full((5,), 1.0 if alpha is None else alpha, dtype=torch.float64)
    assert_same(
        lambda x, y: F.softmax_focal_loss(x, y, alpha, 1.5, reduction=reduction, label_smoothing=0.1),
        lambda x, y: reduced(focal(x, y * 0.9 + 0.02, factor, 1.5), reduction),
        logits(shape), class_probabilities(shape), dtype=dtype, device=device,
    )  # fmt: skip


def test_softmax_focal_loss_gamma_0_is_cross_entropy(device):
    x, target, w = logits((7, 5)), classes((7, 5)), per_class()
    given = [t.to(device) for t in (x, target, w)]
    assert_agrees(
        F.softmax_focal_loss(*given, gamma=0.0, reduction="none"), T.cross_entropy(x, target, w, reduction="none")
    )


def test_softmax_focal_loss_of_two_classes_is_the_sigmoid_one(device):
    """softmax([0, x])_1 = sigmoid(x)."""
    x, target = logits((30,)).to(device), torch.randint(0, 2, (30,), device=device)
    two = torch.stack([torch.zeros_like(x), x], 1)
    expected = F.sigmoid_focal_loss(x, target.double(), alpha=0.3, gamma=2.0)
    alpha = torch.tensor([0.7, 0.3], dtype=torch.float64, device=device)
    assert_agrees(F.softmax_focal_loss(two, target, alpha, reduction="none"), expected)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_softmax_focal_loss_of_saturated_logits(gamma, device):
    """Finite and right also for gamma < 1, where a power of 1 - p has an infinite derivative at 0."""
    far = [40.0, -40.0, 110.0, -110.0, 1e4, -1e4]
    x = torch.tensor([[0.0, v] for v in far], device=device, requires_grad=True)
    loss = F.softmax_focal_loss(x, torch.ones(6, dtype=torch.int64, device=device), gamma=gamma, reduction="none")
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    z = np.array(far)
    log_q, ce = scipy.special.log_expit(-z), -scipy.special.log_expit(z)
    factor = np.exp(gamma * log_q)
    slope = -factor * (np.exp(log_q) + gamma * scipy.special.expit(z) * ce)
    # An exponent of size |gamma x| is rounded before exp, so the relative error grows with it up to underflow at 88;
    # log p is a difference of logits, so what is near 0 is right to the machine epsilon only.
    np.testing.assert_allclose(loss.detach().cpu(), factor * ce, rtol=3e-5, atol=1e-7)
    np.testing.assert_allclose(gradient.cpu(), np.stack([-slope, slope], 1), rtol=3e-5, atol=1e-7)


@pytest.mark.parametrize("columns", [2, 33, 1000, 40000])
def test_long_rows(columns, device):
    x, target = logits((3, columns)), torch.randint(0, columns, (3,))
    given = target.to(device)
    for dtype in (torch.float32, torch.bfloat16):
        assert_same(
            lambda x: F.cross_entropy(x, given, reduction="none"),
            lambda x: T.cross_entropy(x, target, reduction="none"),
            x, dtype=dtype, device=device,
        )  # fmt: skip

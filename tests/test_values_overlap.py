"""Dice, Jaccard, Tversky and the compounds against one-hot NumPy formulas and torch's own cross-entropies."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, softmax
from tolerances import assert_agrees, tolerance

import fused_losses.functional as F
from fused_losses import reference

SHAPE = (2, 3, 5, 7)
LOSSES = [F.dice_loss, F.jaccard_loss, F.tversky_loss]
IDS = ["dice", "jaccard", "tversky"]


def ratio(loss, intersection, p, g, nr, dr):
    """The loss of one class in one region, written from the papers' set formulas."""
    if loss is F.dice_loss:
        return 1 - (2 * intersection + nr) / (p + g + dr)
    false_positives, false_negatives = p - intersection, g - intersection
    if loss is F.jaccard_loss:
        return 1 - (intersection + nr) / (intersection + false_positives + false_negatives + dr)
    return 1 - (intersection + nr) / (intersection + 0.5 * false_positives + 0.5 * false_negatives + dr)


def by_hand(loss, x, one_hot, counted, activation, batch=False, background=True, squared=False, nr=1e-5, dr=1e-5):
    """(B, C') or (C',) by loops over samples and classes."""
    p = {None: lambda v: v, "sigmoid": expit, "softmax": lambda v: softmax(v, 1)}[activation](x)
    power = 2 if squared else 1
    samples = [slice(None)] if batch else [slice(b, b + 1) for b in range(len(x))]
    rows = []
    for sample in samples:
        row = []
        for c in range(0 if background else 1, x.shape[1]):
            keep = counted[sample, c]
            a, b = p[sample, c][keep], one_hot[sample, c][keep]
            row.append(ratio(loss, (a * b).sum(), (a**power).sum(), (b**power).sum(), nr, dr))
        rows.append(row)
    return np.array(rows[0] if batch else rows)


@pytest.mark.parametrize("loss", LOSSES, ids=IDS)
@pytest.mark.parametrize("activation", [None, "sigmoid", "softmax"])
@pytest.mark.parametrize("ignore_index", [None, 1])
def test_classes_and_masks(loss, activation, ignore_index, device):
    x = torch.randn(SHAPE, device=device)
    x = x.sigmoid() if activation is None else 3 * x
    classes = torch.randint(3, (2, 5, 7), device=device)
    one_hot = torch.nn.functional.one_hot(classes, 3).movedim(-1, 1)
    numbers, eye = x.double().cpu().numpy(), one_hot.double().cpu().numpy()
    position = np.ones((2, 1, 5, 7), bool) if ignore_index is None else classes.cpu().numpy()[:, None] != ignore_index
    element = np.ones(SHAPE, bool) if ignore_index is None else eye != ignore_index
    for batch, background, kind in itertools.product((False, True), (True, False), ("index", "dense")):
        target = classes if kind == "index" else one_hot.float()
        counted = np.broadcast_to(position, SHAPE) if kind == "index" else element
        found = loss(x, target, activation=activation, batch=batch, include_background=background,
                     ignore_index=ignore_index, reduction="none")  # fmt: skip
        expected = by_hand(loss, numbers, eye, counted, activation, batch, background)
        assert_agrees(found, torch.from_numpy(expected), n_terms=35, label=f"{batch} {background} {kind}")


def pooled(loss, numbers, eye, weight, activation, samples):
    """The loss of each group of samples, the sums of the classes weighted and added first."""
    p = softmax(numbers, 1) if activation == "softmax" else expit(numbers)

    def total(values):
        return (values.sum(tuple(range(2, values.ndim))) * weight).sum(1)

    found = []
    for group in samples:
        sums = [total(v[group]).sum() for v in (p * eye, p, eye)]
        found.append(ratio(loss, *sums, 1e-5, 1e-5))
    return np.array(found)


@pytest.mark.parametrize("loss", LOSSES, ids=IDS)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_micro_sums_the_weighted_classes_first(loss, activation, device):
    x, classes = 3 * torch.randn(SHAPE, device=device), torch.randint(3, (2, 5, 7), device=device)
    one_hot = torch.nn.functional.one_hot(classes, 3).movedim(-1, 1)
    numbers, eye = x.double().cpu().numpy(), one_hot.double().cpu().numpy()
    weight = torch.tensor([0.3, 2.0, 0.5], device=device)
    options = {"activation": activation, "average": "micro", "reduction": "none"}
    for target, batch in itertools.product((classes, one_hot.float(), one_hot.bool()), (False, True)):
        groups = [slice(None)] if batch else [slice(0, 1), slice(1, 2)]
        for given, background in itertools.product((None, weight), (True, False)):
            kept = slice(None) if background else slice(1, None)
            w = np.ones(3) if given is None else given.cpu().numpy()
            expected = pooled(loss, numbers, eye, np.where(background or np.arange(3) > 0, w, 0), activation, groups)
            found = loss(x, target, batch=batch, include_background=background,
                         weight=None if given is None else given[kept], **options)  # fmt: skip
            assert found.shape == (() if batch else (2,))
            assert_agrees(found.reshape(-1), torch.from_numpy(expected), n_terms=105)
    mean = loss(x, classes, **options | {"reduction": "mean"})
    assert_agrees(mean, loss(x, classes, **options).double().mean(), torch.float32)


@pytest.mark.parametrize("loss", LOSSES, ids=IDS)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_what_a_class_without_target_does(loss, activation, device):
    """Class 2 is absent from the first sample; of the second sample it is all there is."""
    x = torch.randn(SHAPE, device=device, requires_grad=True)
    classes = torch.randint(2, (2, 5, 7), device=device)
    classes[1] = 2
    one_hot = torch.nn.functional.one_hot(classes, 3).movedim(-1, 1)
    present = torch.tensor([[1, 1, 0], [0, 0, 1]], device=device)
    weight = torch.tensor([0.5, 1.0, 2.0], device=device)
    for target in (classes, one_hot.float()):
        counted = loss(x, target, activation=activation, weight=weight, reduction="none")
        assert (counted > 0).all()
        for absent in ("zero", "skip"):
            options = {"activation": activation, "weight": weight, "absent": absent}
            each = loss(x, target, reduction="none", **options)
            assert torch.equal(each, counted * present)
            (found,) = torch.autograd.grad(loss(x, target, **options), x)
            (expected,) = torch.autograd.grad((counted * present).sum() / (3 if absent == "skip" else 6), x,
                                              retain_graph=True)  # fmt: skip
            assert_agrees(
                loss(x, target, **options).detach(), each.detach().double().sum() / (3 if absent == "skip" else 6)
            )
            assert_agrees(found, expected.double(), torch.float32, n_terms=105, at_least=1 / 105)
        both = loss(x, target, activation=activation, batch=True, absent="skip", include_background=False)
        assert_agrees(
            both.detach(),
            loss(x, target, activation=activation, batch=True, include_background=False).detach().double(),
        )


@pytest.mark.parametrize("loss", [*LOSSES, F.dice_cross_entropy_loss, F.dice_focal_loss])
@pytest.mark.parametrize("average", ["macro", "micro"])
def test_a_mean_that_skips_all_is_zero(loss, average, device):
    x = torch.randn(2, 2, 9, device=device, requires_grad=True)
    compound = loss not in LOSSES
    for target in (torch.zeros(2, 2, 9, device=device), torch.full((2, 9), 7, device=device)):
        options = {"average": average, "absent": "skip", "activation": "sigmoid", "ignore_index": 7}
        rest = {"ce_weight": 0.0} if loss is F.dice_cross_entropy_loss else {"focal_weight": 0.0} if compound else {}
        value = loss(x, target, **options, **rest)
        (gradient,) = torch.autograd.grad(value, x)
        assert value == 0
        assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_class_index_dtypes(dtype):
    x, classes = torch.randn(SHAPE), torch.randint(3, (2, 5, 7))
    assert torch.equal(F.dice_loss(x, classes.to(dtype)), F.dice_loss(x, classes))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.float64])
def test_dense_dtypes(dtype):
    x, mask = torch.randn(SHAPE), torch.randint(2, SHAPE)
    assert_agrees(F.dice_loss(x, mask.to(dtype)), F.dice_loss(x.double(), mask.double()), n_terms=35)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_one_class_takes_a_mask_without_the_class_dimension(dtype):
    x, mask = torch.randn(2, 1, 5, 7), torch.randint(2, (2, 5, 7))
    assert torch.equal(F.dice_loss(x, mask.to(dtype)), F.dice_loss(x, mask.unsqueeze(1).float()))


@pytest.mark.parametrize("loss", LOSSES[:2], ids=IDS[:2])
def test_squared_and_smoothing(loss):
    x, target = torch.randn(SHAPE), torch.rand(SHAPE)
    found = loss(x, target, squared=True, smooth_nr=0.5, smooth_dr=2.0, reduction="none")
    expected = by_hand(
        loss, x.double().numpy(), target.double().numpy(), np.ones(SHAPE, bool), "sigmoid", squared=True, nr=0.5, dr=2.0
    )
    assert_agrees(found, torch.from_numpy(expected), n_terms=35)


def test_reductions_and_weight():
    x, target, weight = torch.randn(SHAPE), torch.rand(SHAPE), torch.tensor([1.0, 2.0, 0.5])
    each = F.dice_loss(x, target, reduction="none").double()
    assert_agrees(F.dice_loss(x, target), each.mean(), torch.float32)
    assert_agrees(F.dice_loss(x, target, weight=weight), (each * weight).sum() / 6, torch.float32)
    assert_agrees(F.dice_loss(x, target, weight=weight, reduction="sum"), (each * weight).sum(), torch.float32)


def test_tversky_parameters():
    """5 true positives, 3 false positives, 2 false negatives."""
    p = torch.tensor([1.0] * 8 + [0.0] * 4).view(1, 1, 12)
    g = torch.tensor([1.0] * 5 + [0.0] * 3 + [1.0] * 2 + [0.0] * 2).view(1, 1, 12)
    options = {"activation": None, "smooth_nr": 0.0, "smooth_dr": 0.0}
    limits = tolerance(torch.float32, 12)
    for alpha, beta, gamma in [(0.3, 0.7, 1.0), (0.3, 0.7, 0.75), (1.0, 0.0, 2.0)]:
        expected = (1 - 5 / (5 + 3 * alpha + 2 * beta)) ** gamma
        found = F.tversky_loss(p, g, alpha=alpha, beta=beta, gamma=gamma, **options)
        assert found.item() == pytest.approx(expected, rel=limits["rtol"])
    assert F.dice_loss(p, g, **options).item() == pytest.approx(1 - 10 / 15, rel=limits["rtol"])
    assert F.jaccard_loss(p, g, **options).item() == pytest.approx(1 - 5 / 10, rel=limits["rtol"])


def test_perfect_and_disjoint():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    for loss in LOSSES:
        assert loss(mask, mask, activation=None).item() == pytest.approx(0, abs=tolerance(torch.float32)["atol"])
        assert loss(1 - mask, mask, activation=None).item() == pytest.approx(1, abs=2e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=IDS)
def test_a_million_half_pixels_do_not_overflow(loss):
    x = torch.full((1, 1, 1024, 1024), 20.0, dtype=torch.float16, requires_grad=True)
    value = loss(x, torch.ones_like(x), smooth_dr=1e-5)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(0, abs=1e-5)
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES, ids=IDS)
def test_empty_mask_still_sees_false_positives(loss):
    x = torch.full((1, 1, 8, 8), 2.0, requires_grad=True)
    value = loss(x, torch.zeros(1, 1, 8, 8))
    value.backward()
    assert value.item() > 0.99
    assert (x.grad != 0).all()


@pytest.mark.parametrize("loss", LOSSES, ids=IDS)
@pytest.mark.parametrize("activation", [None, "sigmoid", "softmax"])
def test_everything_ignored_gives_zero(loss, activation):
    for target in (torch.full((2, 5, 7), 255, dtype=torch.uint8), torch.full(SHAPE, 255.0)):
        x = torch.full(SHAPE, float("nan"), requires_grad=True)
        value = loss(x, target, activation=activation, ignore_index=255, smooth_nr=0.0)
        value.backward()
        assert value.item() == 0
        assert (x.grad == 0).all()


@pytest.mark.promise("Values and gradients", "0/0 of an overlap loss is 0.")
@pytest.mark.parametrize("loss", LOSSES, ids=IDS)
def test_zero_over_zero_is_zero(loss, device):
    x = torch.zeros(SHAPE, requires_grad=True, device=device)
    value = loss(x, torch.zeros(SHAPE, device=device), activation=None, smooth_nr=0.0, smooth_dr=0.0)
    value.backward()
    assert value.item() == 0
    assert (x.grad == 0).all()


def test_dice_and_cross_entropy():
    x, classes, mask = 3 * torch.randn(SHAPE), torch.randint(3, (2, 5, 7)), torch.rand(SHAPE)
    eye = torch.nn.functional.one_hot(classes, 3).movedim(-1, 1).double().numpy()
    everything = np.ones(SHAPE, bool)
    dice = by_hand(F.dice_loss, x.double().numpy(), eye, everything, "softmax")
    ce = torch.nn.functional.cross_entropy(x.double(), classes, reduction="none").numpy()
    for reduction in ("mean", "sum"):
        found = F.dice_cross_entropy_loss(x, classes, dice_weight=0.3, ce_weight=0.7, reduction=reduction)
        expected = 0.3 * getattr(dice, reduction)() + 0.7 * getattr(ce, reduction)()
        assert_agrees(found, torch.tensor(expected), n_terms=70)
    dice = by_hand(F.dice_loss, x.double().numpy(), mask.double().numpy(), everything, "sigmoid")
    bce = torch.nn.functional.binary_cross_entropy_with_logits(x.double(), mask.double()).item()
    found = F.dice_cross_entropy_loss(x, mask, activation="sigmoid")
    assert_agrees(found, torch.tensor(dice.mean() + bce), n_terms=210)


def test_dice_and_cross_entropy_ignore():
    x, classes = torch.randn(SHAPE), torch.randint(3, (2, 5, 7))
    classes[:, 0] = 255
    keep = np.broadcast_to((classes != 255).numpy()[:, None], SHAPE)
    eye = torch.nn.functional.one_hot(classes.clamp(max=2), 3).movedim(-1, 1).double().numpy()
    dice = by_hand(F.dice_loss, x.double().numpy(), eye, keep, "softmax", background=False).mean()
    ce = torch.nn.functional.cross_entropy(x.double(), classes, ignore_index=255).item()
    found = F.dice_cross_entropy_loss(x, classes, include_background=False, ignore_index=255)
    assert_agrees(found, torch.tensor(dice + ce), n_terms=70)


def test_dice_and_focal():
    x, classes, mask = 3 * torch.randn(SHAPE), torch.randint(3, (2, 5, 7)), torch.randint(2, SHAPE)
    numbers, everything = x.double().numpy(), np.ones(SHAPE, bool)
    eye = torch.nn.functional.one_hot(classes, 3).movedim(-1, 1).double().numpy()
    log_p = (log_softmax(numbers, 1) * eye).sum(1)
    focal = (-0.4 * (1 - np.exp(log_p)) ** 1.5 * log_p).mean()
    dice = by_hand(F.dice_loss, numbers, eye, everything, "softmax").mean()
    found = F.dice_focal_loss(x, classes, gamma=1.5, alpha=0.4, focal_weight=2.0)
    assert_agrees(found, torch.tensor(dice + 2 * focal), n_terms=70)

    t = mask.double().numpy()
    p_t = np.where(t == 1, expit(numbers), expit(-numbers))
    focal = (np.where(t == 1, 0.25, 0.75) * (1 - p_t) ** 2 * -np.log(p_t)).mean()
    dice = by_hand(F.dice_loss, numbers, t, everything, "sigmoid").mean()
    found = F.dice_focal_loss(x, mask.bool(), activation="sigmoid", alpha=0.25)
    assert_agrees(found, torch.tensor(dice + focal), n_terms=210)


def compound_inputs(device, kind):
    """Logits, a target of class indices or dense, the class that is ignored or None."""
    x, classes = 3 * torch.randn(SHAPE, device=device), torch.randint(3, (2, 5, 7), device=device)
    if kind == "ignored":
        classes[:, 1] = 255
        return x, classes, 255
    return x, classes if kind == "index" else torch.rand(SHAPE, device=device).softmax(1), None


def assert_is_sum(loss, x, target, terms, **options):
    """Value and gradient of a compound are those of Dice and of its second term."""
    x1, x2 = x.clone().requires_grad_(), x.double().requires_grad_()
    dice_options = {k: v for k, v in options.items() if k in ("activation", "ignore_index")}
    for reduction in ("mean", "sum"):
        found = loss(x1, target, reduction=reduction, **options)
        dense = target.double() if target.is_floating_point() else target
        expected = F.dice_loss(x2, dense, reduction=reduction, **dice_options) + terms(x2, dense, reduction)
        (g1,), (g2,) = torch.autograd.grad(found, x1), torch.autograd.grad(expected, x2)
        assert_agrees(found.detach(), expected.detach(), n_terms=210)
        assert_agrees(g1, g2, torch.float32, n_terms=210, at_least=1 / 70)


@pytest.mark.parametrize("kind", ["index", "soft", "ignored"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_cross_entropy_of_a_compound_is_torchs(kind, label_smoothing, weighted, device):
    x, target, ignore_index = compound_inputs(device, kind)
    weight = torch.tensor([0.2, 1.0, 3.0], device=device) if weighted else None

    def cross_entropy(x, target, reduction):
        given = {"label_smoothing": label_smoothing, "weight": None if weight is None else weight.double()}
        ignored = {} if ignore_index is None else {"ignore_index": ignore_index}
        return torch.nn.functional.cross_entropy(x, target, reduction=reduction, **given, **ignored)

    assert_is_sum(
        F.dice_cross_entropy_loss, x, target, cross_entropy, activation="softmax", class_weight=weight,
        label_smoothing=label_smoothing, ignore_index=ignore_index,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["index", "soft", "ignored"])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("focal_activation", [None, "sigmoid", "softmax"])
def test_the_focal_term_of_a_compound_is_the_focal_loss(kind, activation, focal_activation, device):
    """Of any activation beside that of Dice, weighted by class and smoothed."""
    x, target, ignore_index = compound_inputs(device, kind)
    weight, e = torch.tensor([0.2, 1.0, 3.0], device=device), 0.2

    def focal(x, target, reduction):
        g = target
        if not target.is_floating_point():
            g = torch.nn.functional.one_hot(target.clamp(max=2), 3).movedim(-1, 1).double()
        keep = (
            (target != 255).unsqueeze(1) if ignore_index else torch.ones(1, 1, 1, 1, device=x.device, dtype=torch.bool)
        )
        w = weight.double().view(-1, 1, 1)
        if (focal_activation or activation) == "sigmoid":
            t = g * (1 - e) + e / 2
            each = reference.sigmoid_focal_loss(x, t, 0.3, 1.5, reduction="none") * w
            count = keep.expand(x.shape).sum()
        else:
            p = x.softmax(1)
            each = -(g * (1 - e) + e / 3) * w * 0.3 * (1 - p) ** 1.5 * x.log_softmax(1)
            count = keep.expand(2, 1, 5, 7).sum()
        total = torch.where(keep, each, 0).sum()
        return total / count if reduction == "mean" else total

    assert_is_sum(
        F.dice_focal_loss, x, target, focal, activation=activation, focal_activation=focal_activation, gamma=1.5,
        alpha=0.3, class_weight=weight, label_smoothing=e, ignore_index=ignore_index,
    )  # fmt: skip


@pytest.mark.parametrize("loss", [F.dice_cross_entropy_loss, F.dice_focal_loss])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_compounds_with_everything_ignored(loss, activation):
    x = torch.full(SHAPE, float("nan"), requires_grad=True)
    value = loss(x, torch.full((2, 5, 7), -1), activation=activation, ignore_index=-1)
    value.backward()
    assert value.item() == 0
    assert (x.grad == 0).all()

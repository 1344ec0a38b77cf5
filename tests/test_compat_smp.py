"""compat.smp against segmentation_models_pytorch 0.6.0: value, gradients, shape, dtype and exception over a grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peers import assert_rounded_once, assert_same, assert_same_signature, combinations, fallbacks, required  # noqa: F401

from fused_losses.compat import smp as ours

theirs = required("segmentation_models_pytorch.losses", "0.6.0")

B, C, H, W = 2, 4, 3, 5
WEIGHTS = [0.5, 1.0, 2.0, 0.25]
OVERLAP = ["DiceLoss", "JaccardLoss", "TverskyLoss"]


def predicted(channels=C, probabilities=False, dtype=torch.float64):
    x = torch.randn(B, channels, H, W, dtype=dtype)
    return (x.sigmoid() if probabilities else x).requires_grad_()


def labels(ignored=None):
    """Labels without the last class."""
    target = torch.randint(0, C - 1, (B, H, W))
    if ignored is not None:
        target.view(-1)[::6] = ignored
    return target


def masks(channels, dtype, ignored=None):
    """Masks of which the last channel is empty where there are several."""
    target = torch.randint(0, 2, (B, channels, H, W))
    if channels > 1:
        target[:, -1] = 0
    if ignored is not None:
        target.view(-1)[::6] = ignored
    return target.to(dtype)


@pytest.mark.parametrize("name", ours.__all__)
def test_signatures(name):
    assert_same_signature(getattr(ours, name), getattr(theirs, name))


def of_mode(mode, ignored):
    """Predictions and the targets that SMP takes in a mode."""
    if mode == "multiclass":
        return predicted(), [labels(ignored), labels(ignored).unsqueeze(1)]
    channels = 1 if mode == "binary" else C
    found = [masks(channels, dtype, ignored) for dtype in (torch.int64, torch.float64)]
    return predicted(channels), [*found, found[0][:, 0]] if mode == "binary" else found


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("name", OVERLAP)
def test_overlap(name, mode, fallbacks):  # noqa: F811
    extra = {"alpha": 0.3, "beta": 0.8, "gamma": 1.5} if name == "TverskyLoss" else {}
    several = mode != "binary"
    grid = combinations(
        log_loss=[False, True], smooth=[0.0, 0.5], ignore_index=[None, -1, 255],
        classes=[None, [0, 2], [1, -1]] if several else [None], class_weights=[None, WEIGHTS] if several else [None],
    )  # fmt: skip
    for options in grid:
        pair = [getattr(module, name)(mode, **options, **extra) for module in (ours, theirs)]
        x, targets = of_mode(mode, options["ignore_index"])
        for target in targets:
            assert_same(*pair, x, target, label=f"{options} {target.dtype} {tuple(target.shape)}")
    assert not fallbacks


@pytest.mark.parametrize("name", OVERLAP)
def test_overlap_of_probabilities(name, fallbacks):  # noqa: F811
    for mode, target in [("binary", masks(1, torch.float64)), ("multiclass", labels())]:
        pair = [getattr(module, name)(mode, from_logits=False) for module in (ours, theirs)]
        assert_same(*pair, predicted(1 if mode == "binary" else C, probabilities=True), target)
    assert not fallbacks


@pytest.mark.parametrize("name", OVERLAP)
def test_classes_of_any_kind(name, fallbacks):  # noqa: F811
    for classes in ([0, 0, 1], np.array([0, 2]), torch.tensor([3, 1])):
        pair = [getattr(module, name)("multiclass", classes, class_weights=np.array(WEIGHTS))
                for module in (ours, theirs)]  # fmt: skip
        assert_same(*pair, predicted(), labels())
    assert not fallbacks


@pytest.mark.parametrize("name", [*OVERLAP, "FocalLoss"])
def test_soft_targets_are_smps(name, fallbacks):  # noqa: F811
    pair = [getattr(module, name)("multilabel") for module in (ours, theirs)]
    soft = torch.rand(B, C, H, W, dtype=torch.float64)
    assert_same(*pair, predicted(), soft)
    assert_same(*pair, predicted(), soft.requires_grad_())
    assert [str(f) for f in fallbacks] == ["soft targets"] * 2


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_focal(mode, fallbacks):  # noqa: F811
    several = mode != "binary"
    grid = combinations(
        alpha=[None, 0.25], gamma=[0.0, 2.0], reduction=["mean", "sum", "none"],
        ignore_index=[None] if mode == "multilabel" else [None, -1, 255],
        class_weights=[None, WEIGHTS] if several else [None],
    )  # fmt: skip
    for options in grid:
        if not several and options["ignore_index"] is not None and options["reduction"] == "none":
            continue
        pair = [module.FocalLoss(mode, **options) for module in (ours, theirs)]
        x, targets = of_mode(mode, options["ignore_index"])
        for target in targets[: 1 if mode == "multiclass" else None]:
            assert_same(*pair, x, target, label=f"{options} {target.dtype}")
            if options["class_weights"] and options["reduction"] == "none":  # SMP weighs positions, not classes
                assert str(fallbacks.pop()) == "class_weights with reduction='none'"
            assert not fallbacks


@pytest.mark.parametrize("options", [
    {"normalized": True}, {"reduced_threshold": 0.5}, {"from_logits": False}, {"reduction": "batchwise_mean"},
    {"alpha": -1}, {"alpha": -1.0},
])  # fmt: skip
def test_focal_that_is_smps(options, fallbacks):  # noqa: F811
    pair = [module.FocalLoss("binary", **options) for module in (ours, theirs)]
    assert_same(*pair, predicted(1, probabilities=True), masks(1, torch.float64))
    assert len(fallbacks) == 1


def test_bce(fallbacks):  # noqa: F811
    weight = torch.rand(W, dtype=torch.float64)
    grid = combinations(
        weight=[None, weight], ignore_index=[-100, 255, None], reduction=["mean", "sum", "none", None],
        smooth_factor=[None, 0.1], pos_weight=[None, 2 * weight],
    )  # fmt: skip
    for options in grid:
        pair = [module.SoftBCEWithLogitsLoss(**options) for module in (ours, theirs)]
        assert pair[0].state_dict().keys() == pair[1].state_dict().keys()
        target = torch.rand(B, 1, H, W, dtype=torch.float64)
        if options["ignore_index"] == 255:
            target.view(-1)[::5] = 255
        assert_same(*pair, predicted(1), target, label=str(options))
        assert_same(*pair, predicted(1), torch.full_like(target, -100.0), label=str(options))
    assert not fallbacks


def test_ce(fallbacks):  # noqa: F811
    grid = combinations(reduction=["mean", "sum", "none"], smooth_factor=[0.0, 0.1], ignore_index=[-100, 1, None])
    for options in grid:
        pair = [module.SoftCrossEntropyLoss(**options) for module in (ours, theirs)]
        target = labels(options["ignore_index"])
        assert_same(*pair, predicted(), target, label=str(options))
        assert_same(*pair, predicted(), target.unsqueeze(1), label=str(options))
        rows = torch.randn(6, C, dtype=torch.float64).requires_grad_()
        assert_same(*pair, rows, torch.randint(0, C, (6,)), label=str(options))
    assert not fallbacks


def test_ce_that_is_smps(fallbacks):  # noqa: F811
    pair = [module.SoftCrossEntropyLoss() for module in (ours, theirs)]
    assert_same(*pair, predicted(), labels())  # SMP's default raises TypeError
    pair = [module.SoftCrossEntropyLoss(smooth_factor=0.1, dim=-1) for module in (ours, theirs)]
    assert_same(*pair, torch.randn(2, 3, C).requires_grad_(), torch.randint(0, C, (2, 3)))
    assert len(fallbacks) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [
    lambda m: m.DiceLoss("multiclass"), lambda m: m.DiceLoss("multiclass", class_weights=WEIGHTS),
    lambda m: m.TverskyLoss("multiclass", gamma=2.0), lambda m: m.FocalLoss("multiclass"),
    lambda m: m.FocalLoss("multiclass", class_weights=WEIGHTS), lambda m: m.SoftCrossEntropyLoss(smooth_factor=0.1),
])  # fmt: skip
@pytest.mark.parametrize("autocast", [False, True])
def test_dtypes(make, dtype, autocast, fallbacks):  # noqa: F811
    assert_rounded_once(make(ours), make(theirs), predicted(dtype=dtype), labels(), autocast=autocast)
    assert not fallbacks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("of_target", [None, torch.float32, torch.int64, torch.bool])
@pytest.mark.parametrize("make", [
    lambda m: m.DiceLoss("binary"), lambda m: m.FocalLoss("binary"), lambda m: m.FocalLoss("multilabel", alpha=0.25),
    lambda m: m.SoftBCEWithLogitsLoss(smooth_factor=0.1, reduction="sum"),
])  # fmt: skip
@pytest.mark.parametrize("autocast", [False, True])
def test_dtypes_of_masks(make, dtype, of_target, autocast, fallbacks):  # noqa: F811
    tensors = predicted(1, dtype=dtype), masks(1, of_target or dtype)
    if isinstance(make(ours), ours.SoftBCEWithLogitsLoss) and of_target is torch.bool:
        assert_same(make(ours), lambda x, t: make(theirs)(x, t.long()), *tensors)  # SMP: 1 - bool is an error
        return
    assert_rounded_once(make(ours), make(theirs), *tensors, autocast=autocast)
    assert not fallbacks


def test_integer_masks_are_smoothed_in_the_default_dtype(fallbacks):  # noqa: F811
    pair = [m.SoftBCEWithLogitsLoss(smooth_factor=0.1) for m in (ours, theirs)]
    torch.set_default_dtype(torch.float64)
    try:
        assert_same(*pair, predicted(1, dtype=torch.float32), masks(1, torch.int64), computed_in=torch.float32)
    finally:
        torch.set_default_dtype(torch.float32)
    assert not fallbacks


@pytest.mark.parametrize("name, arguments, options", [
    ("DiceLoss", ("other",), {}), ("DiceLoss", ("binary", [1]), {}), ("DiceLoss", (), {}),
    ("DiceLoss", ("binary",), {"class_weights": [1.0]}), ("TverskyLoss", ("other",), {}),
    ("JaccardLoss", ("binary", [1]), {}), ("FocalLoss", ("other",), {}),
    ("FocalLoss", ("binary",), {"class_weights": [1.0]}), ("FocalLoss", ("binary",), {"beta": 1}),
])  # fmt: skip
def test_exceptions_of_constructors(name, arguments, options):
    with pytest.raises(Exception) as expected:
        getattr(theirs, name)(*arguments, **options)
    with pytest.raises(type(expected.value)):
        getattr(ours, name)(*arguments, **options)


X, Y = torch.randn(B, C, H, W), torch.randint(0, C, (B, H, W))


@pytest.mark.parametrize("make, tensors", [
    (lambda m: m.DiceLoss("multiclass"), (X, Y[:1])), (lambda m: m.DiceLoss("multiclass"), (X, Y.float())),
    (lambda m: m.DiceLoss("multiclass"), (X, Y + 2)), (lambda m: m.DiceLoss("multilabel"), (X, Y)),
    (lambda m: m.JaccardLoss("multiclass", class_weights=[1.0]), (X, Y)),
    (lambda m: m.JaccardLoss("multiclass", class_weights=[1.0, 2.0]), (X, Y)),
    (lambda m: m.FocalLoss("multilabel", ignore_index=1), (X, X > 0)),
    (lambda m: m.FocalLoss("multiclass"), (X, Y[:, :2])), (lambda m: m.FocalLoss("binary"), (X, Y)),
    (lambda m: m.SoftBCEWithLogitsLoss(), (X, Y)), (lambda m: m.SoftBCEWithLogitsLoss(), (X, (X > 0).long())),
    (lambda m: m.SoftCrossEntropyLoss(smooth_factor=0.1), (X, Y.int())),
    (lambda m: m.SoftCrossEntropyLoss(smooth_factor=0.1), (X, Y + 2)),
])  # fmt: skip
def test_exceptions_of_calls(make, tensors):
    assert_same(make(ours), make(theirs), *tensors)


@pytest.mark.parametrize("name", OVERLAP[:1] + OVERLAP[2:])
def test_hooks_are_of_subclasses_of_smps(name):
    for hook in ("aggregate_loss", "compute_score"):
        with pytest.raises(TypeError, match=f"as the base of a class that has {hook}, got its drop-in"):
            type("Own", (getattr(ours, name),), {hook: lambda self, *_: None})


@pytest.mark.parametrize("log_loss", [False, True])
def test_a_power_below_one_of_no_loss_has_no_slope(log_loss, fallbacks):  # noqa: F811
    """SMP's is infinite in the plain form, and 0 of what a mask that is empty multiplies."""
    x = predicted(1)
    loss = ours.TverskyLoss("binary", gamma=0.75, log_loss=log_loss)(x, torch.zeros(B, 1, H, W, dtype=torch.int64))
    assert loss.item() == 0
    (slope,) = torch.autograd.grad(loss, x)
    assert (slope == 0).all()
    assert not fallbacks


@pytest.mark.parametrize("name", OVERLAP)
def test_overlap_that_is_smps(name, fallbacks):  # noqa: F811
    pair = [getattr(library, name)("binary", eps=100.0) for library in (ours, theirs)]
    assert_same(*pair, predicted(1), masks(1, torch.float64))
    pair = [getattr(library, name)("multiclass", from_logits=False) for library in (ours, theirs)]
    assert_same(*pair, predicted(1, probabilities=True), torch.zeros(B, H, W, dtype=torch.int64))
    assert [str(f) for f in fallbacks] == ["an eps that reaches the denominators", "a single class"]

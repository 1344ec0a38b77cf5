"""compat.kornia against kornia 0.9.0: value, gradients, shape, dtype and exception over a grid of options."""

from __future__ import annotations

import pytest
import torch
from peers import assert_rounded_once, assert_same, assert_same_signature, combinations, fallbacks, required  # noqa: F401

from fused_losses.compat import kornia as ours

theirs = required("kornia.losses", "0.9.0")

B, C = 2, 4
SPACE = (3, 5)


def logits(shape=(B, C, *SPACE), dtype=torch.float64):
    return torch.randn(shape, dtype=dtype).requires_grad_()


def labels(ignored=None, shape=(B, *SPACE)):
    """Labels of which the last class is in the first sample alone, some of them ignored."""
    target = torch.randint(0, C - 1, shape)
    target[0].view(-1)[:2] = C - 1
    if ignored is not None:
        target[0].view(-1)[2:5] = ignored
    return target


def bits(shape=(B, C, *SPACE), dtype=torch.float64, ignored=None):
    target = torch.randint(0, 2, shape).to(dtype)
    if ignored is not None:
        target.view(-1)[::5] = ignored
    return target


WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.25], dtype=torch.float64)

FOCAL = combinations(
    alpha=[None, 0.25], gamma=[0.0, 2.0, 1.5], reduction=["none", "mean", "sum"], weight=[None, WEIGHT],
    ignore_index=[-100, 1, None],
)  # fmt: skip


@pytest.mark.parametrize("name", ours.__all__)
def test_signatures(name):
    assert_same_signature(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("form", ["function", "class"])
def test_focal(form, fallbacks):  # noqa: F811
    x, y = logits(), labels()
    for options in FOCAL:
        if form == "function":
            pair = [lambda x, y, f=module.focal_loss, o=options: f(x, y, **o) for module in (ours, theirs)]
        else:
            pair = [module.FocalLoss(**options) for module in (ours, theirs)]
        target = labels(options["ignore_index"]) if options["ignore_index"] == -100 else y
        assert_same(*pair, x, target, label=str(options))
    assert not fallbacks


def test_focal_of_other_shapes(fallbacks):  # noqa: F811
    for shape in [(B, C), (B, C, 7), (B, C, 2, 3, 4), (0, C, 3), (B, C, 0)]:
        for reduction in ("none", "mean", "sum"):
            pair = [module.FocalLoss(0.3, reduction=reduction) for module in (ours, theirs)]
            x = logits(shape)
            assert_same(*pair, x, torch.randint(0, C, shape[:1] + shape[2:]), label=f"{shape} {reduction}")
    assert not fallbacks


BINARY = combinations(
    alpha=[None, 0.25], gamma=[0.0, 2.0], reduction=["none", "mean", "sum"], pos_weight=[None, WEIGHT],
    weight=[None, 2 * WEIGHT], ignore_index=[-100, None],
)  # fmt: skip


def test_binary_focal(fallbacks):  # noqa: F811
    for options in BINARY:
        pair = [module.BinaryFocalLossWithLogits(**options) for module in (ours, theirs)]
        for target in (bits(), bits(ignored=options["ignore_index"]), bits(dtype=torch.int64)):
            assert_same(*pair, logits(), target, label=str(options))
    assert not fallbacks


def test_binary_focal_of_soft_targets_is_kornias(fallbacks):  # noqa: F811
    pair = [module.BinaryFocalLossWithLogits(0.25) for module in (ours, theirs)]
    soft = torch.rand(B, C, *SPACE, dtype=torch.float64)
    assert_same(*pair, logits(), soft)
    assert_same(*pair, logits(), soft.requires_grad_())
    assert_same(*pair, logits(), bits().requires_grad_())
    assert [str(f) for f in fallbacks] == ["soft targets"] * 3


@pytest.mark.parametrize("alpha", [-1, -1.0])
def test_an_alpha_of_minus_one_is_kornias(alpha, fallbacks):  # noqa: F811
    pair = [module.BinaryFocalLossWithLogits(alpha) for module in (ours, theirs)]
    assert_same(*pair, logits(), bits())
    assert [str(f) for f in fallbacks] == ["alpha=-1"]


DICE = combinations(average=["micro", "macro"], eps=[1e-8, 0.1], weight=[None, WEIGHT], ignore_index=[-100, 1, None])


def test_dice(fallbacks):  # noqa: F811
    for options in DICE:
        pair = [module.DiceLoss(**options) for module in (ours, theirs)]
        for ignored in {None, options["ignore_index"]}:
            assert_same(*pair, logits(), labels(ignored), label=str(options))
    assert not fallbacks


def test_tversky(fallbacks):  # noqa: F811
    for options in combinations(alpha=[0.0, 0.3], beta=[0.5, 1.0], eps=[1e-8, 0.1], ignore_index=[-100, 1, None]):
        pair = [module.TverskyLoss(**options) for module in (ours, theirs)]
        for ignored in {None, options["ignore_index"]}:
            assert_same(*pair, logits(), labels(ignored), label=str(options))
    assert not fallbacks


@pytest.mark.parametrize("make", [
    lambda m: m.DiceLoss(), lambda m: m.DiceLoss("macro"), lambda m: m.TverskyLoss(0.3, 0.7),
    lambda m: m.FocalLoss(0.5, reduction="mean"),
])  # fmt: skip
def test_a_sample_of_which_everything_is_ignored(make, fallbacks):  # noqa: F811
    target = labels()
    target[1] = -100
    assert_same(make(ours), make(theirs), logits(), target)
    assert_same(make(ours), make(theirs), logits(), torch.full_like(target, -100))
    assert not fallbacks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [
    lambda m: m.DiceLoss(), lambda m: m.DiceLoss("macro", weight=WEIGHT.float()), lambda m: m.TverskyLoss(0.3, 0.7),
    lambda m: m.FocalLoss(0.5, reduction="mean"), lambda m: m.FocalLoss(0.5, weight=WEIGHT.float()),
])  # fmt: skip
@pytest.mark.parametrize("autocast", [False, True])
def test_dtypes(make, dtype, autocast, fallbacks):  # noqa: F811
    assert_rounded_once(make(ours), make(theirs), logits(dtype=dtype), labels(), autocast=autocast)
    assert not fallbacks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("of_target", [None, torch.float32, torch.int64, torch.uint8])
@pytest.mark.parametrize("autocast", [False, True])
def test_dtypes_of_binary_focal(dtype, of_target, autocast, fallbacks):  # noqa: F811
    pair = [m.BinaryFocalLossWithLogits(0.25, reduction="sum") for m in (ours, theirs)]
    target = bits(dtype=of_target or dtype)
    assert_rounded_once(*pair, logits(dtype=dtype), target, computed_in=torch.float32, autocast=autocast)
    assert not fallbacks


def errors():
    x, y = torch.randn(B, C, *SPACE), labels()
    focal, dice, tversky, binary = "focal_loss", "dice_loss", "tversky_loss", "binary_focal_loss_with_logits"
    yield focal, (x, y, 0.25), {"reduction": "batchmean"}
    yield focal, (x, y[:, :2], 0.25), {}
    yield focal, (x, y.int(), 0.25), {"reduction": "mean"}
    yield focal, (x, y.float(), 0.25), {}
    yield focal, (x, y + 3, 0.25), {"reduction": "mean"}
    yield focal, (x, y, 0.25), {"weight": WEIGHT[:3]}
    yield focal, ([1.0], y, 0.25), {}
    yield focal, (x,), {}
    yield binary, (x, y), {}
    yield binary, (x, (x > 0).float()), {"weight": WEIGHT[:3]}
    yield binary, (x, (x > 0).float()), {"reduction": None}
    yield dice, (x[0], y[0]), {}
    yield dice, (x, y), {"average": "weighted"}
    yield dice, (x, y.int()), {}
    yield dice, (x, y + 3), {}
    yield dice, (x, y), {"weight": WEIGHT[:3]}
    yield tversky, (x, y), {}
    yield tversky, (x[:, :, 0], y[:, 0], 0.5, 0.5), {}
    yield tversky, ("x", y, 0.5, 0.5), {}


@pytest.mark.parametrize("name, arguments, options", list(errors()))
def test_exceptions(name, arguments, options):
    with pytest.raises(Exception) as expected:
        getattr(theirs, name)(*arguments, **options)
    with pytest.raises(type(expected.value)):
        getattr(ours, name)(*arguments, **options)

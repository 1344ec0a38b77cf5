"""compat.monai against MONAI 1.6.1: value, gradients, shape, dtype and exception over a grid of options."""

from __future__ import annotations

import pytest
import torch
from peers import (  # noqa: F401
    answer,
    assert_rounded_once,
    assert_same,
    assert_same_signature,
    combinations,
    fallbacks,
    required,
)

from fused_losses.compat import monai as ours

theirs = required("monai.losses", "1.6.1")

B, C = 2, 4
SPACE = (3, 5)
REDUCTIONS = ["none", "mean", "sum"]
WEIGHT = [0.5, 1.0, 2.0, 0.25]


def logits(channels=C, dtype=torch.float64, space=SPACE):
    return torch.randn(B, channels, *space, dtype=dtype).requires_grad_()


def labels(dtype=torch.int64, ignored=None, space=SPACE, channels=C):
    """Labels (B, 1, ...) without the last class."""
    target = torch.randint(0, channels - 1, (B, 1, *space))
    if ignored is not None:
        target.view(-1)[::6] = ignored
    return target.to(dtype)


def masks(channels=C, dtype=torch.float32, ignored=None):
    target = torch.randint(0, 2, (B, channels, *SPACE))
    if ignored is not None:
        target.view(-1)[::6] = ignored
    return target.to(dtype)


def both(name, options):
    return [getattr(module, name)(**options) for module in (ours, theirs)]


@pytest.mark.parametrize("name", ours.__all__)
def test_signatures(name):
    assert_same_signature(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("name", ours.__all__)
def test_state(name):
    options = {} if name == "TverskyLoss" else {"weight": torch.tensor(WEIGHT)}
    mine, other = both(name, options)
    assert mine.state_dict().keys() == other.state_dict().keys()
    missing = vars(other).keys() - vars(mine).keys()
    assert not missing, f"attributes of MONAI's that the adapter lacks: {missing}"


def judged(options):
    """How closely: MONAI squares masks and computes focal losses in float32."""
    return {"label": str(options), "computed_in": torch.float32 if options.get("squared_pred") else torch.float64}


DICE = {
    "DiceLoss": combinations(
        reduction=REDUCTIONS, batch=[False, True], include_background=[True, False], squared_pred=[False, True],
        jaccard=[False, True], weight=[None, 2.0, "classes"],
    ),
    "TverskyLoss": combinations(
        reduction=REDUCTIONS, batch=[False, True], include_background=[True, False], alpha=[0.3], beta=[0.9],
        smooth_nr=[1e-5, 0.0, 1.0],
    ),
}  # fmt: skip


def with_weights(options, channels=C):
    """The options with one weight for each class that counts."""
    if options.get("weight") != "classes":
        return options
    return {**options, "weight": WEIGHT[:channels] if options["include_background"] else WEIGHT[1:channels]}


@pytest.mark.parametrize("name", DICE)
def test_overlap_of_labels(name, fallbacks):  # noqa: F811
    for options in map(with_weights, DICE[name]):
        pair = both(name, {**options, "softmax": True, "to_onehot_y": True})
        assert_same(*pair, logits(), labels(), **judged(options))
    for ignored, dtype in [(255, torch.uint8), (-1, torch.float32), (1, torch.int64), (7, torch.int16)]:
        options = {"sigmoid": True, "to_onehot_y": True, "ignore_index": ignored}
        assert_same(*both(name, options), logits(), labels(dtype, ignored), label=str(options))
    assert not fallbacks


@pytest.mark.parametrize("name", DICE)
def test_overlap_of_masks(name, fallbacks):  # noqa: F811
    for options in map(with_weights, DICE[name]):
        for activation in ({"sigmoid": True}, {"softmax": True}, {"other_act": torch.tanh}, {}):
            pair = both(name, {**options, **activation})
            assert_same(*pair, logits(), masks(), **judged(options | activation))
    assert not fallbacks


@pytest.mark.parametrize("name", DICE)
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float64])
def test_overlap_of_masks_of_each_dtype(name, dtype, fallbacks):  # noqa: F811
    """MONAI does not take all of them: bool minus a number, the norm of integers. Then its float64 is the measure."""
    for soft_label in (False, True):
        mine, other = both(name, {"sigmoid": True, "soft_label": soft_label})
        x, y = logits(), masks(dtype=dtype)
        taken = not isinstance(answer(other, x, y)[0], Exception)
        assert taken or dtype is not torch.float64
        assert_same(mine, other if taken else lambda x, y, other=other: other(x, y.double()), x, y)
    assert not fallbacks


@pytest.mark.parametrize("name", DICE)
def test_overlap_of_a_single_class(name, fallbacks):  # noqa: F811
    for options in DICE[name]:
        if options.get("weight") != "classes":
            for extra in ({"softmax": True}, {"to_onehot_y": True}, {"sigmoid": True, "ignore_index": 2}):
                pair = both(name, {**options, **extra})
                assert_same(*pair, logits(1), masks(1, ignored=extra.get("ignore_index")), **judged(options | extra))
    assert {str(f) for f in fallbacks} <= {"ignore_index with smooth_nr and smooth_dr that differ"}


@pytest.mark.parametrize("name", DICE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_dtypes_of_a_single_class_with_an_ignored_value(name, dtype, fallbacks):  # noqa: F811
    for of_target in (torch.float64, torch.float32, torch.float16, torch.int64):
        pair = both(name, {"sigmoid": True, "ignore_index": 2})
        assert_rounded_once(*pair, logits(1, dtype), masks(1, of_target, 2), computed_in=torch.float32)
    assert not fallbacks


@pytest.mark.parametrize("name", DICE)
def test_overlap_that_is_monais(name, fallbacks):  # noqa: F811
    soft = torch.rand(B, C, *SPACE, dtype=torch.float64)
    assert_same(*both(name, {"soft_label": True, "sigmoid": True}), logits(), soft)
    assert_same(*both(name, {"ignore_index": 1, "sigmoid": True}), logits(), masks())
    assert [str(f) for f in fallbacks] == ["soft_label=True with soft targets", "ignore_index without to_onehot_y"]
    assert_same(*both(name, {"sigmoid": True}), logits(), soft.requires_grad_())  # the same meaning: fused
    assert len(fallbacks) == 2
    for activation in ({}, {"other_act": torch.tanh}):  # beyond [0, 1] MONAI's norms are another loss
        assert_same(*both(name, {"soft_label": True, **activation}), logits(), masks(dtype=torch.float64))
    smoothing = {"smooth_nr": 0.0, "smooth_dr": 1e-5}  # of a sample that is all ignored
    options = {"to_onehot_y": True, "softmax": True, "ignore_index": 2, **smoothing}
    assert_same(*both(name, options), logits(), torch.full((B, 1, *SPACE), 2))
    assert [str(f) for f in fallbacks[2:]] == [
        *["soft_label=True without sigmoid or softmax"] * 2, "ignore_index with smooth_nr and smooth_dr that differ",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [*DICE, "DiceCELoss", "DiceFocalLoss"])
def test_overlap_without_space(name, fallbacks):  # noqa: F811
    """Of single samples MONAI's ratio is one, of everything."""
    for batch, reduction in [(True, "mean"), (True, "sum"), (False, "mean"), (False, "sum"), (False, "none")]:
        if name not in DICE and reduction != "mean":
            continue
        pair = both(name, {"softmax": True, "to_onehot_y": True, "batch": batch, "reduction": reduction})
        assert_same(*pair, logits(space=()), labels(space=()), computed_in=torch.float32, label=f"{batch} {reduction}")
        assert {str(f) for f in fallbacks} == (set() if batch else {"an input without space and batch=False"})


FOCAL = combinations(
    reduction=REDUCTIONS, gamma=[0.0, 2.0, 1.5], alpha=[None, 0.25, "classes"], weight=[None, 2.0, "classes"],
    include_background=[True, False], use_softmax=[False, True],
)  # fmt: skip


def focal_options(options):
    options = with_weights(options)
    if options["alpha"] == "classes":
        options = {**options, "alpha": [0.1, 0.2, 0.3, 0.9][not options["include_background"] :]}
    return options


def test_focal_of_masks(fallbacks):  # noqa: F811
    for options in map(focal_options, FOCAL):
        if options["use_softmax"] and (options["reduction"] == "none" or not options["include_background"]):
            continue
        assert_same(*both("FocalLoss", options), logits(), masks(), label=str(options))
    assert not fallbacks


def test_focal_of_labels(fallbacks):  # noqa: F811
    for options in map(focal_options, FOCAL):
        if options["use_softmax"] and not options["include_background"]:
            continue
        pair = both("FocalLoss", {**options, "to_onehot_y": True})
        assert_same(*pair, logits(), labels(), label=str(options))
        if options["reduction"] == "mean":
            for ignored in (255, 0):
                pair = both("FocalLoss", {**options, "to_onehot_y": True, "ignore_index": ignored})
                assert_same(*pair, logits(), labels(ignored=ignored), label=f"{options} {ignored}")
    assert not fallbacks


def test_focal_of_everything_ignored(fallbacks):  # noqa: F811
    for use_softmax in (False, True):
        pair = both("FocalLoss", {"to_onehot_y": True, "ignore_index": 255, "use_softmax": use_softmax})
        assert_same(*pair, logits(), torch.full((B, 1, *SPACE), 255))
    assert not fallbacks


def test_focal_without_space(fallbacks):  # noqa: F811
    for options in combinations(reduction=REDUCTIONS, use_softmax=[False, True]):
        pair = both("FocalLoss", {**options, "to_onehot_y": True})
        assert_same(*pair, logits(space=()), labels(space=()), label=str(options))
    assert not fallbacks


@pytest.mark.parametrize("name, options", [
    ("FocalLoss", {}), ("FocalLoss", {"use_softmax": True}), ("DiceFocalLoss", {"sigmoid": True}),
])  # fmt: skip
@pytest.mark.parametrize("shape", [(0, C, 3), (2, C, 0), (0, C)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_focal_of_nothing(name, options, shape, reduction):
    x = torch.zeros(shape, requires_grad=True)
    assert_same(*both(name, {**options, "reduction": reduction}), x, torch.zeros(shape))


def test_focal_that_is_monais(fallbacks):  # noqa: F811
    soft = torch.rand(B, C, *SPACE, dtype=torch.float64)
    assert_same(*both("FocalLoss", {}), logits(), soft)
    assert_same(*both("FocalLoss", {"use_softmax": True, "include_background": False}), logits(), masks())
    assert_same(*both("FocalLoss", {"to_onehot_y": True, "ignore_index": 1, "reduction": "sum"}), logits(), labels())
    assert len(fallbacks) == 3
    assert_same(*both("FocalLoss", {"gamma": 0.0}), logits(), soft)  # the same meaning: fused
    assert_same(*both("FocalLoss", {"use_softmax": True}), logits(), soft)
    assert len(fallbacks) == 3


@pytest.mark.parametrize("name, options", [("FocalLoss", {}), ("DiceFocalLoss", {"sigmoid": True})])
def test_an_alpha_of_minus_one_is_monais(name, options, fallbacks):  # noqa: F811
    pair = both(name, {**options, "to_onehot_y": True, "alpha": -1})
    assert_same(*pair, logits(), labels(), computed_in=torch.float32)
    assert {str(f) for f in fallbacks} == {"alpha=-1"}


COMPOUND = combinations(
    reduction=["mean", "sum"], batch=[False, True], include_background=[True, False], squared_pred=[False, True]
)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_dice_ce(weight, label_smoothing, fallbacks):  # noqa: F811
    for options in COMPOUND:
        options = {
            **options, "softmax": True, "weight": weight and torch.tensor(weight, dtype=torch.float64),
            "label_smoothing": label_smoothing, "lambda_dice": 0.7, "lambda_ce": 1.3,
        }  # fmt: skip
        for dtype in (torch.int64, torch.float32):
            pair = both("DiceCELoss", {**options, "to_onehot_y": True})
            assert_same(*pair, logits(), labels(dtype), **judged(options))
        dense = masks(dtype=torch.float64)
        assert_same(*both("DiceCELoss", options), logits(), dense, **judged(options))
    assert not fallbacks


def test_dice_ce_of_a_single_class(fallbacks):  # noqa: F811
    for options in COMPOUND:
        assert_same(
            *both("DiceCELoss", {**options, "sigmoid": True}),
            logits(1),
            masks(1, dtype=torch.float64),
            **judged(options),
        )
    assert not fallbacks


def test_dice_ce_that_is_monais(fallbacks):  # noqa: F811
    for options in ({"sigmoid": True}, {"softmax": True, "jaccard": True}, {}):
        assert_same(*both("DiceCELoss", {**options, "to_onehot_y": True}), logits(), labels())
    weighted = {"sigmoid": True, "weight": torch.tensor([2.0], dtype=torch.float64)}
    assert_same(*both("DiceCELoss", weighted), logits(1), masks(1))
    assert len(fallbacks) == 4


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("weight", [None, 2.0, "classes"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_dice_focal(activation, weight, alpha, fallbacks):  # noqa: F811
    for options in COMPOUND:
        options = with_weights({**options, "weight": weight}) | {
            activation: True, "alpha": alpha, "gamma": 1.5, "lambda_dice": 0.7, "lambda_focal": 1.3,
        }  # fmt: skip
        pair = both("DiceFocalLoss", {**options, "to_onehot_y": True})
        assert_same(*pair, logits(), labels(), label=str(options), computed_in=torch.float32)
        assert_same(
            *both("DiceFocalLoss", options),
            logits(),
            masks(),
            label=str(options),
            computed_in=torch.float32,
        )
    assert not fallbacks


def test_dice_focal_that_is_monais(fallbacks):  # noqa: F811
    for options in ({"softmax": True, "jaccard": True}, {}, {"softmax": True, "reduction": "none"}):
        assert_same(
            *both("DiceFocalLoss", {**options, "to_onehot_y": True}),
            logits(),
            labels(),
            computed_in=torch.float32,
        )
    assert len(fallbacks) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name, options", [
    ("DiceLoss", {"softmax": True}), ("DiceLoss", {"sigmoid": True, "batch": True}), ("TverskyLoss", {"softmax": True}),
    ("FocalLoss", {}), ("FocalLoss", {"use_softmax": True}), ("DiceCELoss", {"softmax": True}),
    ("DiceFocalLoss", {"softmax": True}),
])  # fmt: skip
@pytest.mark.parametrize("autocast", [False, True])
def test_dtypes(name, options, dtype, autocast, fallbacks):  # noqa: F811
    pair = both(name, {**options, "to_onehot_y": True})
    assert_rounded_once(*pair, logits(dtype=dtype), labels(), computed_in=torch.float32, autocast=autocast)
    if name in DICE or (name == "DiceCELoss" and autocast):
        for of_target in (dtype, torch.float32):
            assert_rounded_once(*both(name, options), logits(dtype=dtype), masks(dtype=of_target), autocast=autocast)
    assert not fallbacks


def test_tensors_with_metadata(fallbacks):  # noqa: F811
    from monai.data import MetaTensor

    x = logits()
    for name in ("DiceLoss", "TverskyLoss", "DiceCELoss", "DiceFocalLoss"):
        mine, other = both(name, {"softmax": True, "to_onehot_y": True})
        plain = labels()
        assert_same(mine, other, x, MetaTensor(plain), computed_in=torch.float32 if "Focal" in name else torch.float64)
        assert mine(MetaTensor(x), MetaTensor(plain)).item() == mine(x, plain).item()
    assert not fallbacks


@pytest.mark.parametrize("name, options", [
    ("DiceLoss", {"sigmoid": True, "softmax": True}), ("DiceLoss", {"other_act": 1}),
    ("DiceLoss", {"reduction": "unknown"}), ("TverskyLoss", {"softmax": True, "other_act": torch.tanh}),
    ("FocalLoss", {"reduction": "unknown"}), ("DiceCELoss", {"reduction": "none"}), ("DiceCELoss", {"lambda_ce": -1.0}),
    ("DiceFocalLoss", {"lambda_dice": -1.0}), ("DiceFocalLoss", {"sigmoid": True, "softmax": True}),
    ("DiceLoss", {"jaccardian": True}),
])  # fmt: skip
def test_exceptions_of_constructors(name, options):
    with pytest.raises(Exception) as expected:
        getattr(theirs, name)(**options)
    with pytest.raises(type(expected.value)):
        getattr(ours, name)(**options)


X = torch.randn(B, C, *SPACE)


@pytest.mark.parametrize("name, options, target", [
    ("DiceLoss", {}, torch.zeros(B, 1, *SPACE)), ("DiceLoss", {"to_onehot_y": True}, torch.zeros(B, C, *SPACE)),
    ("DiceLoss", {"to_onehot_y": True}, torch.full((B, 1, *SPACE), C)),
    ("DiceLoss", {"weight": [1.0, 2.0]}, torch.zeros(B, C, *SPACE)),
    ("DiceLoss", {"weight": [1.0, 2.0, -1.0, 1.0]}, torch.zeros(B, C, *SPACE)),
    ("TverskyLoss", {}, torch.zeros(B, 1, *SPACE)), ("FocalLoss", {}, torch.zeros(B, 1, *SPACE)),
    ("FocalLoss", {"weight": [1.0]}, torch.zeros(B, C, *SPACE)),
    ("FocalLoss", {"weight": -1.0}, torch.zeros(B, C, *SPACE)),
    ("FocalLoss", {"alpha": [0.5]}, torch.zeros(B, C, *SPACE)),
    ("DiceCELoss", {"softmax": True}, torch.zeros(B, *SPACE)),
    ("DiceCELoss", {"softmax": True}, torch.zeros(B, 2, *SPACE)),
    ("DiceFocalLoss", {"softmax": True}, torch.zeros(B, 2, *SPACE)),
])  # fmt: skip
def test_exceptions_of_calls(name, options, target):
    error = assert_same(*both(name, options), X, target)
    assert isinstance(error, Exception)

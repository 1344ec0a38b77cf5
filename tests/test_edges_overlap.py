"""The overlap losses and their compounds where sums vanish, everything is ignored, a mask holds other values, or an op
is called directly."""

from __future__ import annotations

import math

import pytest
import torch
from emulated_device import ops
from tolerances import assert_agrees

import fused_losses.functional as F
from fused_losses import _C, reference

OPS = [row for row in _C.losses() if row["family"] == "overlap"]
RATIOS = [row for row in OPS if "_weight" not in row["options"]]
NEUTRAL = {
    "activation": 2, "smooth_nr": 1e-5, "smooth_dr": 1e-5, "include_background": 1, "ignore_index": math.nan,
    "alpha": 0.5, "beta": 0.5, "gamma": 2, "dice_weight": 1, "ce_weight": 1, "focal_weight": 1,
}  # fmt: skip
ACTIVATIONS = {None: 0, "sigmoid": 1, "softmax": 2}
SUM = 2  # reduction

each_op = pytest.mark.parametrize("row", OPS, ids=[row["name"] for row in OPS])


def op(row, suffix=""):
    return getattr(ops(), row["name"] + suffix)


def wire(row, **options):
    """The op's list of options."""
    return [float((NEUTRAL | options).get(name, 0)) for name in row["options"].split()]


def no_weights(row):
    """The op's weights, none of them given."""
    return (None,) * row["arguments"].count("weight")


def inputs(device="cpu", shape=(2, 3, 37)):
    return torch.randn(shape, device=device), torch.randint(shape[1], (shape[0], *shape[2:]), device=device)


@each_op
@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=[str(name) for name in ACTIVATIONS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_gradient_may_overwrite_its_input(row, activation, dtype, device):
    if activation == 0 and row not in RATIOS:
        pytest.skip("a second term is of logits")
    x, y = inputs(device, (2, 3, 3000))
    x = x.to(dtype)
    one_hot = torch.nn.functional.one_hot(y, 3).movedim(-1, 1).contiguous()
    options = wire(row, activation=activation)
    for target in (y, one_hot.to(torch.uint8), one_hot.to(dtype)):
        apart, over = torch.empty_like(x), x.clone()
        total = op(row, "_into")(apart, x, target, *no_weights(row), options, 0.25)
        assert torch.equal(op(row, "_into")(over, over, target, *no_weights(row), options, 0.25), total)
        whole, *_, gradient = op(row)(x, target, *no_weights(row), options, SUM, 1)
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(total, whole / 4, rtol=1e-6, atol=0)
        torch.testing.assert_close(apart, gradient / 4, rtol=4 * eps, atol=4 * eps * gradient.abs().max().item())
        torch.testing.assert_close(over, apart, rtol=4 * eps, atol=4 * eps * apart.abs().max().item())


@pytest.mark.promise(
    "What is refused",
    "An op of `torch.ops.fused_losses` called directly refuses shapes, dtypes and options it cannot run.",
)
@each_op
def test_an_op_called_directly_refuses_what_it_cannot_run(row):
    x, y = inputs()
    run, options = op(row), wire(row)

    def refused(words, *arguments):
        with pytest.raises(RuntimeError, match=f"{row['name']}: expected .*{words}"):
            run(*arguments)

    refused("options", x, y, *no_weights(row), options[1:], SUM, 1)
    refused(r"shape \(2, 3, 37\)", x, y[:, 1:], *no_weights(row), options, SUM, 1)
    refused(r"shape \(2, 3, 37\)", x, x[:1], *no_weights(row), options, SUM, 1)
    refused("integer", x, y.float(), *no_weights(row), options, SUM, 1)
    refused(r"weight of shape \(3,\)", x, y, torch.ones(2), *no_weights(row)[1:], options, SUM, 1)
    refused("reduction", x, y, *no_weights(row), options, 3, 1)
    refused("activation", x, y, *no_weights(row), wire(row, activation=3), SUM, 1)
    refused("average", x, y, *no_weights(row), wire(row, average=2), SUM, 1)
    refused("absent", x, y, *no_weights(row), wire(row, absent=math.nan), SUM, 1)
    if row not in RATIOS:
        refused(r"class_weight of shape \(3,\)", x, y, None, torch.ones(2), options, SUM, 1)
    refused("2 classes", x[:, :1].contiguous(), y, *no_weights(row), wire(row, include_background=0), SUM, 1)
    loss, *saved, _ = run(x, y, *no_weights(row), options, SUM, 1)
    with pytest.raises(RuntimeError, match="saved"):
        op(row, "_backward")(loss, saved[0][:1], *saved[1:], x, y, *no_weights(row), options, SUM, 1)


@each_op
def test_an_op_copies_what_is_not_contiguous(row):
    x, y = inputs(shape=(2, 3, 8, 5))
    options = wire(row)
    for given, target in ((x.transpose(2, 3), y.transpose(1, 2)), (x[:, :, :1].expand_as(x), y[:1].expand_as(y))):
        found = op(row)(given, target, *no_weights(row), options, SUM, 1)
        expected = op(row)(given.contiguous(), target.contiguous(), *no_weights(row), options, SUM, 1)
        assert all(map(torch.equal, found, expected))


@pytest.mark.promise(
    "What is refused",
    "A class out of range is an IndexError that names it and its place, in an overlap loss too.",
)
@each_op
def test_a_class_out_of_range_is_an_index_error(row):
    x, y = inputs()
    for dtype in (torch.uint8, torch.int32, torch.int64):
        wrong = y.to(dtype)
        wrong[1, 2] = 7
        with pytest.raises(
            IndexError, match=rf"{row['name']}: expected class index in \[0, 3\), got 7 at flat index 39"
        ):
            getattr(F, row["name"])(x, wrong, activation="softmax")


@pytest.mark.promise(
    "What is refused",
    "Masks other than 0, 1 and `ignore_index`, and classes out of range, are refused also where plain PyTorch computes "
    "an overlap loss, for a gradient that no kernel has.",
)
@each_op
def test_values_are_looked_at_whoever_computes(row, device):
    """The gradient of `weight` is the reference's, in plain PyTorch: the same values are refused."""
    x, mask = inputs(device, (2, 2, 37))
    function, weight = getattr(F, row["name"]), torch.ones(2, device=device, requires_grad=True)
    function(x, mask, activation="softmax", weight=weight).backward()
    assert weight.grad.isfinite().all()
    if device == "cuda":
        return  # a device assertion would end the context
    dense = torch.full((2, 2, 37), 255)
    for target, activation in ((dense, "sigmoid"), (mask + 2, "softmax")):
        with pytest.raises((IndexError, RuntimeError), match=r"got (2|3|255) |assertion"):
            function(x, target, activation=activation, weight=weight)


def losses(*names):
    """Fused and reference functions of the losses named, all overlap losses without."""
    chosen = [row["name"] for row in OPS if not names or row["name"] in names]
    both = [(name, module) for name in chosen for module in (F, reference)]
    ids = [f"{name}-{module.__name__.rpartition('.')[2]}" for name, module in both]
    return pytest.mark.parametrize("loss", [getattr(module, name) for name, module in both], ids=ids)


def value_and_gradient(loss, x, *arguments, **options):
    x = x.detach().clone().requires_grad_()
    found = loss(x, *arguments, **options)
    (gradient,) = torch.autograd.grad(found, x)
    return found.detach(), gradient


def plain(name, x, g, activation, squared, smooth_nr):
    """The loss summed over classes and samples and its gradient, by autograd in float64, smooth_dr = 0."""
    x = x.double().requires_grad_()
    p = x.sigmoid() if activation == "sigmoid" else x.softmax(1)
    power = 2 if squared else 1
    i, a, b = ((p * g).sum(2), (p**power).sum(2), (g**power).sum(2))
    ratio = {
        "dice_loss": lambda: (2 * i + smooth_nr) / (a + b),
        "jaccard_loss": lambda: (i + smooth_nr) / (a + b - i),
        "tversky_loss": lambda: (i + smooth_nr) / (0.5 * a + 0.5 * b),
    }[name]()
    total = (1 - ratio).sum()
    return total.detach(), torch.autograd.grad(total, x)[0]


@pytest.mark.promise(
    "Values and gradients",
    'A mean that skips all classes (`absent="skip"`) is 0, of an empty batch too.',
)
@losses()
@pytest.mark.parametrize("average", ["macro", "micro"])
def test_the_mean_of_an_empty_batch_that_skips_is_zero(loss, average, device):
    """All that is there, nothing, is skipped: nothing is divided by 1."""
    x, y = inputs(device, (0, 3, 37))
    options = {"activation": "softmax", "average": average, "reduction": "mean"}
    value, gradient = value_and_gradient(loss, x, y, absent="skip", **options)
    assert (value.item(), gradient.shape) == (0, x.shape)
    if loss.__name__ in {row["name"] for row in RATIOS}:  # the second term of nothing is 0 in any case
        assert loss(x, y, **options).isnan()


@pytest.mark.promise(
    "Values and gradients",
    "Overlap losses and their compounds with `smooth_dr=0` have the exact gradient however small the "
    "probabilities of a class are.",
)
@losses("dice_loss", "jaccard_loss", "tversky_loss")
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_vanishing_denominator_leaves_the_gradient_exact(loss, activation, dtype, device):
    """A class absent from the target, with ever smaller probabilities and no smooth_dr."""
    name = loss.__name__.removeprefix("reference_")
    for squared in (False, True) if name != "tversky_loss" else (False,):
        options = {"squared": True} if squared else {}
        for logit in (15.0, 20.0, 30.0, 40.0) if squared else (30.0, 45.0, 60.0, 75.0, 86.0):
            x = torch.randn(2, 2, 24, device=device).to(dtype)
            x[:, 1] -= 2 * logit if activation == "softmax" and squared else logit
            if activation == "softmax":
                x[:, 0] += 0 if not squared else -logit
            target = torch.zeros(2, 24, dtype=torch.int64, device=device)
            one_hot = torch.stack([torch.ones_like(target), torch.zeros_like(target)], 1)
            for smooth_nr in (0.0, 1e-5):
                expected = plain(name, x, one_hot, activation, squared, smooth_nr)
                for given in (target, one_hot.to(dtype), one_hot.to(torch.uint8)):
                    found = value_and_gradient(
                        loss, x, given, activation=activation, smooth_nr=smooth_nr, smooth_dr=0.0, reduction="sum",
                        **options,
                    )  # fmt: skip
                    label = f"squared={squared} logit={logit} smooth_nr={smooth_nr}"
                    assert_agrees(found[0], expected[0], n_terms=24, label=label)
                    # 1 / 24: the slope of the class that is there, which the softmax lets cancel
                    assert_agrees(found[1], expected[1], dtype, n_terms=24, label=label, at_least=1 / 24)


@pytest.mark.promise("Values and gradients", "No denominator of an overlap loss is so small that a NaN comes of it.")
@losses()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_no_nan_however_small_the_denominator(loss, dtype, device):
    for logit in (45.0, 90.0, 103.0, 104.0, 300.0, 700.0, 746.0, 1e4):
        for activation in ("sigmoid", "softmax"):
            x = torch.full((1, 3, 9), -logit, device=device).to(dtype)
            x[:, 0] = 0
            for target in (torch.zeros(1, 9, dtype=torch.int64), torch.full((1, 9), 2), torch.arange(9).view(1, 9) % 3):
                options = {"activation": activation, "smooth_nr": 0.0, "smooth_dr": 0.0}
                for value in value_and_gradient(loss, x, target.to(device), **options):
                    assert value.isfinite().all(), f"{activation} {logit}"
                if loss.__name__.endswith(("dice_loss", "jaccard_loss")):
                    for value in value_and_gradient(loss, x, target.to(device), squared=True, **options):
                        assert value.isfinite().all(), f"{activation} {logit} squared"


@pytest.mark.promise("Values and gradients", "An `ignore_index` that never occurs changes no bit of an overlap loss.")
@losses()
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_an_ignore_index_that_never_occurs_changes_nothing(loss, activation, device):
    x = torch.full((2, 2, 9), -150.0, device=device)
    x[:, 0] = 0
    target = torch.zeros(2, 9, dtype=torch.int64, device=device)
    one_hot = torch.stack([torch.ones_like(target), torch.zeros_like(target)], 1).float()
    for given in (target, one_hot):
        for batch in (False, True):
            options = {"activation": activation, "smooth_nr": 0.0, "smooth_dr": 1e-3, "batch": batch}
            expected = value_and_gradient(loss, x, given, **options)
            for ignore_index in (200, -100):
                found = value_and_gradient(loss, x, given, ignore_index=ignore_index, **options)
                assert all(map(torch.equal, found, expected))


@pytest.mark.promise("Values and gradients", "An overlap loss of which everything is ignored is 0, with gradient 0.")
@losses()
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_what_is_all_ignored_gives_no_loss_and_no_gradient(loss, activation, device):
    x = torch.randn(2, 2, 9, device=device)
    options = {"activation": activation, "smooth_nr": 0.0, "smooth_dr": 1.0, "ignore_index": 7, "reduction": "sum"}
    target = torch.full((2, 9), 7, device=device)
    for given in (target, target.unsqueeze(1).expand(x.shape).float()):
        value, gradient = value_and_gradient(loss, x, given, **options)
        assert value == 0
        assert not gradient.any()
    target[1] = 0  # the first sample only
    value, gradient = value_and_gradient(loss, x, target, **options)
    alone, alone_gradient = value_and_gradient(loss, x[1:], target[1:], **options)
    torch.testing.assert_close(value, alone)
    assert not gradient[0].any()
    assert torch.allclose(gradient[1:], alone_gradient)


@pytest.mark.promise(
    "Values and gradients",
    "`tversky_loss` is clamped at 0 only where `gamma` is not 1; with `gamma=1` and alpha = beta = ½ it equals "
    "Dice of twice the smoothing, below 0 too.",
)
@losses("tversky_loss")
def test_tversky_is_dice_where_it_has_no_exponent(loss, device):
    """A smooth_nr above smooth_dr takes both below 0; an exponent needs a base that is not."""
    x, y = inputs(device)
    x = x.double() + 9 * torch.nn.functional.one_hot(y, 3).movedim(-1, 1)
    dice = value_and_gradient(F.dice_loss, x, y, activation="softmax", smooth_nr=6.0, smooth_dr=0.0)
    found = value_and_gradient(loss, x, y, activation="softmax", smooth_nr=3.0, smooth_dr=0.0)
    assert dice[0] < 0
    for got, expected in zip(found, dice):
        assert_agrees(got, expected, n_terms=37, at_least=1 / 37)  # the terms that a softmax lets cancel
    value, gradient = value_and_gradient(loss, x, y, activation="softmax", smooth_nr=3.0, smooth_dr=0.0, gamma=2.0)
    assert value == 0
    assert not gradient.any()


@pytest.mark.promise(
    "What is refused",
    "An integer mask of an overlap loss holds 0, 1 and `ignore_index`; a picture of 0 and 255 is an error.",
)
@each_op
def test_a_mask_holds_0_and_1(row):
    loss, name = getattr(F, row["name"]), row["name"]
    x, _ = inputs(shape=(2, 3, 1100))
    for activation in ("sigmoid", "softmax"):
        for dtype in (torch.uint8, torch.int32, torch.int64):
            mask = torch.randint(2, x.shape).to(dtype)
            expected = value_and_gradient(loss, x, mask.float(), activation=activation)
            found = value_and_gradient(loss, x, mask, activation=activation)
            assert all(map(torch.equal, found, expected))
            mask[1, 1, 1050] = 255
            mask[1, 2, 3] = 2
            words = f"{name}: expected an integer target to be 0, 1 or ignore_index, got 255 at flat index 5450"
            with pytest.raises(RuntimeError, match=words):
                loss(x, mask, activation=activation)
            with pytest.raises(RuntimeError, match="ignore_index, got 2 at flat index 5503"):
                loss(x, mask, activation=activation, ignore_index=255)
            assert getattr(reference, name)(x, mask, activation=activation, ignore_index=255).isnan()
            assert torch.func.jvp(lambda x, m=mask: loss(x, m, activation="sigmoid"), (x,), (x,))[0].isnan()
            mask[1, 2, 3] = 1
            assert getattr(reference, name)(x, mask, activation=activation, ignore_index=255).isfinite()
            loss(x, mask, activation=activation, ignore_index=255)
    single = torch.randint(2, (2, 1, 70))
    for dtype in (torch.bool, torch.int32, torch.int64):
        assert torch.equal(loss(x[:, :1, :70], single.to(dtype), activation="sigmoid"),
                           loss(x[:, :1, :70], single[:, 0].float(), activation="sigmoid"))  # fmt: skip
    with pytest.raises(RuntimeError, match="-1 at flat index 0"):
        loss(x[:, :1, :70], single[:, 0] - 1 - single[0, 0, 0], activation="sigmoid")


@losses()
def test_an_empty_batch_summed_over_the_batch(loss, device):
    """No position: nothing is intersected, and the ratio is that of the smoothing terms; nothing is ignored either."""
    for target in (torch.zeros(0, 5, dtype=torch.int64, device=device), torch.zeros(0, 3, 5, device=device)):
        for activation in ("sigmoid", "softmax"):
            x = torch.zeros(0, 3, 5, device=device)
            for ignore_index in (None, 255):
                options = {"activation": activation, "batch": True, "ignore_index": ignore_index}
                value, gradient = value_and_gradient(loss, x, target, smooth_nr=1.0, smooth_dr=4.0, **options)
                assert value.item() == pytest.approx(0.75)
                assert gradient.shape == x.shape


@losses("dice_focal_loss")
def test_an_infinite_logit_on_its_own_side_has_no_focal_gradient(loss, device):
    x = torch.tensor([math.inf, -math.inf, 0.5], device=device).view(1, 1, 3)
    g = torch.tensor([1.0, 0.0, 1.0], device=device).view(1, 1, 3)
    _, gradient = value_and_gradient(loss, x, g, activation="sigmoid", gamma=0.0)
    assert gradient[0, 0, :2].tolist() == [0, 0]
    assert gradient[0, 0, 2] < 0


@pytest.mark.promise(
    "Values and gradients",
    "A class of weight 0 adds nothing to the second term of a compound where its probability is 0, NaN where a logit "
    "is.",
)
@pytest.mark.parametrize("name", ["dice_cross_entropy_loss", "dice_focal_loss"])
@pytest.mark.parametrize("classes, positions", [(3, 8), (4, 600), (16, 70), (40, 9)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_class_without_weight_hides_no_nan(name, classes, positions, smoothing, device):
    x, y = inputs(device, (1, classes, positions))
    weight = torch.ones(classes, device=device)
    weight[1] = 0
    y[0, :4] = 1
    options = {"class_weight": weight, "label_smoothing": smoothing}
    for value in (-torch.inf, torch.nan):
        x[0, 1, 1] = value
        found = [value_and_gradient(getattr(module, name), x, y, **options) for module in (F, reference)]
        for a, b in zip(*found):
            assert_agrees(a, b.double(), torch.float32, positions)
        assert found[0][0].isnan().item() == (value != value)


@pytest.mark.parametrize("absent", ["count", "zero"])
def test_a_target_of_nothing_hides_no_nan(absent, device):
    x = torch.randn(1, 3, 5, device=device)
    x[0, 1, 2] = torch.nan
    value, _ = value_and_gradient(F.dice_cross_entropy_loss, x, torch.zeros_like(x), absent=absent)
    assert value.isnan()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", ["dice_loss", "dice_cross_entropy_loss", "dice_focal_loss"])
def test_without_classes_the_mean_is_that_of_nothing(name, activation):
    """Of the kernel, of the reference, and of the reference in the kernel's place."""
    function, empty = getattr(F, name), torch.empty(2, 0, 3)
    for call in (function, function.reference, torch.vmap(function)):
        given = empty.unsqueeze(0) if call not in (function, function.reference) else empty
        assert call(given, given, activation=activation).isnan().all()

"""The overlap losses and their compounds where sums vanish, everything is ignored, a mask holds other values, or an op
is called directly."""

from __future__ import annotations

import math

import pytest
import torch
from emulated_device import ops

import fused_losses.functional as F
from fused_losses import _C

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
        total = op(row, "_into")(apart, x, target, None, options, 0.25)
        assert torch.equal(op(row, "_into")(over, over, target, None, options, 0.25), total)
        whole, *_, gradient = op(row)(x, target, None, options, SUM, 1)
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(total, whole / 4, rtol=1e-6, atol=0)
        torch.testing.assert_close(apart, gradient / 4, rtol=4 * eps, atol=4 * eps * gradient.abs().max().item())
        torch.testing.assert_close(over, apart, rtol=4 * eps, atol=4 * eps * apart.abs().max().item())


@each_op
def test_an_op_called_directly_refuses_what_it_cannot_run(row):
    x, y = inputs()
    run, options = op(row), wire(row)

    def refused(words, *arguments):
        with pytest.raises(RuntimeError, match=f"{row['name']}: expected .*{words}"):
            run(*arguments)

    refused("options", x, y, None, options[1:], SUM, 1)
    refused(r"shape \(2, 3, 37\)", x, y[:, 1:], None, options, SUM, 1)
    refused(r"shape \(2, 3, 37\)", x, x[:1], None, options, SUM, 1)
    refused("integer", x, y.float(), None, options, SUM, 1)
    refused(r"weight of shape \(3,\)", x, y, torch.ones(2), options, SUM, 1)
    refused("reduction", x, y, None, options, 3, 1)
    refused("activation", x, y, None, wire(row, activation=3), SUM, 1)
    refused("2 classes", x[:, :1].contiguous(), y, None, wire(row, include_background=0), SUM, 1)
    loss, *saved, _ = run(x, y, None, options, SUM, 1)
    with pytest.raises(RuntimeError, match="saved"):
        op(row, "_backward")(loss, saved[0][:1], *saved[1:], x, y, None, options, SUM, 1)


@each_op
def test_an_op_copies_what_is_not_contiguous(row):
    x, y = inputs(shape=(2, 3, 8, 5))
    options = wire(row)
    for given, target in ((x.transpose(2, 3), y.transpose(1, 2)), (x[:, :, :1].expand_as(x), y[:1].expand_as(y))):
        found = op(row)(given, target, None, options, SUM, 1)
        expected = op(row)(given.contiguous(), target.contiguous(), None, options, SUM, 1)
        assert all(map(torch.equal, found, expected))


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

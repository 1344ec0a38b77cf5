"""Edges of the sequence family: orders beyond a sentence, gradients in place of the logits, ops called directly."""

from __future__ import annotations

import math

import pytest
import torch
from tolerances import assert_agrees

from fused_losses import functional as F

OPS = torch.ops.fused_losses
NAME = "expected_bleu_loss"


def sentences(classes=11, dtype=torch.float32, device="cpu", batch=3):
    logits = torch.randn(batch, 6, classes, device=device).to(dtype)
    target = torch.randint(min(classes, 4), (batch, 5), device=device)
    return logits, target


@pytest.mark.parametrize("smooth", [1.0, 0.0])
def test_orders_beyond_the_sentence(smooth, device):
    """All of them have a precision of 1, or none: however many, they cost no time."""
    logits, target = sentences(device=device)
    lengths = torch.tensor([6, 2, 0], device=device)
    leaf = logits.clone().requires_grad_()
    few = F.expected_bleu_loss(leaf, target, max_order=7, smooth=smooth, logits_lengths=lengths, reduction="none")
    many = OPS.expected_bleu_loss(logits, target, lengths, None, [2**53, smooth], 0, 0)[0]
    if smooth == 0:
        assert (many == 1).all()
        return
    # log BLEU is the brevity penalty's and the precisions' over max_order
    penalty = 1 - 5 / torch.tensor([6.0, 2.0], dtype=torch.float64)
    penalty = penalty.clamp(max=0)
    precisions = 7 * ((1 - few[:2].detach().cpu().double()).log() - penalty)
    assert_agrees(many[:2].cpu(), (1 - (penalty + precisions / 2**53).exp()).float())
    assert many[2] == 1


@pytest.mark.parametrize("classes", [1, 11, 5000])
@pytest.mark.parametrize("batch", [3, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_gradient_in_place_of_the_logits(classes, batch, dtype, device):
    """The op that writes into a given gradient may be given its input: the same bits as into memory of its own."""
    logits, target = sentences(classes, dtype, device, batch)
    own = torch.full_like(logits, torch.nan)
    total = OPS.expected_bleu_loss_into(own, logits, target, None, None, [4, 1], 0.25)
    in_place = logits.clone()
    assert torch.equal(OPS.expected_bleu_loss_into(in_place, in_place, target, None, None, [4, 1], 0.25), total)
    assert torch.equal(in_place, own)
    leaf = logits.clone().requires_grad_()
    expected = F.expected_bleu_loss(leaf, target, reduction="sum")
    expected.backward(torch.tensor(0.25, dtype=expected.dtype, device=device))
    assert_agrees(total, 0.25 * expected.detach())
    assert_agrees(own, leaf.grad)


@pytest.mark.promise("What is refused", "A token out of range is an IndexError.")
def test_a_token_out_of_range_is_an_index_error():
    logits, target = sentences()
    for wrong in (11, -1, 2**62 + 1):
        target[1, 2] = wrong
        with pytest.raises(
            IndexError, match=rf"^{NAME}: expected class index in \[0, 11\), got {wrong} at flat index 7$"
        ):
            F.expected_bleu_loss(logits, target)


def test_the_op_refuses_what_it_cannot_read():
    logits, target = sentences()
    lengths = torch.tensor([1, 2, 3])
    for wrong, options, match in (
        ((logits[0], target, None, None), [4, 1], r"logits of shape \(B, T, V\), got \(6, 11\)"),
        ((logits, target[:2], None, None), [4, 1], r"target of shape \(3, U\), got \(2, 5\)"),
        ((logits, target[0], None, None), [4, 1], r"target of shape \(3, U\), got \(5,\)"),
        ((logits, target.float(), None, None), [4, 1], "target of an integer dtype"),
        ((logits, target, lengths[:2], None), [4, 1], r"logits_lengths of shape \(3,\), got \(2,\)"),
        ((logits, target, None, lengths.float()), [4, 1], "target_lengths of an integer dtype"),
        ((logits, target, None, None), [0, 1], r"max_order in \[1, 2\*\*53\], got 0"),
        ((logits, target, None, None), [math.nan, 1], r"max_order in \[1, 2\*\*53\], got nan"),
        ((logits, target, None, None), [math.inf, 1], r"max_order in \[1, 2\*\*53\], got inf"),
    ):
        with pytest.raises(RuntimeError, match=f"^{NAME}: expected {match}"):
            OPS.expected_bleu_loss(*wrong, options, 1, 0)

"""Edges of the ranking family: gradients in place of the scores, and ops called directly."""

from __future__ import annotations

import pytest
import torch
from tolerances import assert_agrees

from fused_losses import functional as F

OPS = torch.ops.fused_losses
NAMES = ["approx_ndcg_loss", "lambda_ndcg_loss"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 1), (5, 37), (2, 1100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("k", [0, 10])
def test_gradient_in_place_of_the_scores(name, shape, dtype, k, device):
    """The op that writes into a given gradient may be given its input: the same bits as into memory of its own."""
    scores = torch.randn(shape, device=device).to(dtype)
    relevance = torch.randint(5, shape, device=device)
    mask = torch.rand(shape, device=device) < 0.9
    op = getattr(OPS, f"{name}_into")
    own = torch.full_like(scores, torch.nan)
    total = op(own, scores, relevance, mask, [0.7, k], 0.25)
    in_place = scores.clone()
    assert torch.equal(op(in_place, in_place, relevance, mask, [0.7, k], 0.25), total)
    assert torch.equal(in_place, own)
    leaf = scores.clone().requires_grad_()
    option = {"temperature" if name == "approx_ndcg_loss" else "sigma": 0.7}
    expected = getattr(F, name)(leaf, relevance, mask=mask, k=k or None, reduction="sum", **option)
    expected.backward(torch.tensor(0.25, dtype=expected.dtype, device=device))
    assert_agrees(total, 0.25 * expected.detach())
    assert_agrees(own, leaf.grad)


@pytest.mark.parametrize("name", NAMES)
def test_ops_refuse_what_they_cannot_read(name):
    op = getattr(OPS, name)
    x = torch.randn(4, 7)
    for wrong, match in (
        ((x[0], x[0], None), r"scores of shape \(B, n\), got \(7,\)"),
        ((x, x[:3], None), r"relevance of shape \(4, 7\), got \(3, 7\)"),
        ((x, x, x[:, :5] > 0), r"mask of shape \(4, 7\), got \(4, 5\)"),
        ((x, x, x), "mask of dtype bool"),
    ):
        with pytest.raises(RuntimeError, match=f"^{name}: expected {match}"):
            op(*wrong, [1, 0], 1, 0)
    with pytest.raises(RuntimeError, match="an incoming gradient of 4 elements, got 3"):
        getattr(OPS, f"{name}_backward")(torch.ones(3), x, x, None, [1, 0], 0, 1)

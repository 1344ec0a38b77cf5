"""The ranking losses against scikit-learn's NDCG and allRank's formulas written in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from tolerances import assert_agrees

import fused_losses.functional as F

LISTS, ITEMS = 6, 11


def problem(dtype=torch.float64):
    scores = torch.randn(LISTS, ITEMS, dtype=dtype)
    relevance = torch.randint(5, (LISTS, ITEMS)).to(dtype)
    relevance[:, 0] = 1
    return scores, relevance


def allrank_approx_ndcg(s, y, temperature):
    """1 - approximate NDCG of one list; `alpha` of allRank is 1 / temperature."""
    difference = s[None, :] - s[:, None]
    position = 0.5 + (1 / (1 + np.exp(-difference / temperature))).sum(1)  # sigmoid(0) = ½ of the item itself
    gain = 2.0**y - 1
    ideal = (np.sort(gain)[::-1] / np.log2(np.arange(2, len(y) + 2))).sum()
    return 1 - (gain / ideal / np.log2(1 + position)).sum()


def allrank_lambda_ndcg(s, y, sigma, k):
    """LambdaRank weights |ΔG| |ΔD| on a natural logarithm, over pairs among the first k of the current ranking."""
    order = np.argsort(-s, kind="stable")
    s, y = s[order], y[order]
    k = len(y) if k is None else k
    gain, d = 2.0**y - 1, np.log2(1 + np.arange(1, len(y) + 1))
    ideal = (np.sort(gain)[::-1] / d)[:k].sum()
    total = 0.0
    for i in range(min(k, len(y))):
        for j in range(min(k, len(y))):
            if y[i] > y[j]:
                weight = abs(gain[i] - gain[j]) / ideal * abs(1 / d[i] - 1 / d[j])
                total += weight * np.log1p(np.exp(-sigma * (s[i] - s[j])))
    return total


@pytest.mark.parametrize("k", [None, 1, 3, ITEMS, 50])
def test_sharp_ranks_give_ndcg(k, device):
    scores, relevance = problem()
    found = F.approx_ndcg_loss(scores.to(device), relevance.to(device), temperature=1e-6, k=k, reduction="none")
    gains = (2**relevance - 1).numpy()
    expected = [1 - ndcg_score(g[None], s[None], k=k) for g, s in zip(gains, scores.numpy())]
    assert_agrees(found, torch.tensor(expected, dtype=torch.float64), n_terms=ITEMS**2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_approx_ndcg(temperature, dtype, device):
    scores, relevance = problem(dtype)
    found = F.approx_ndcg_loss(scores.to(device), relevance.to(device), temperature=temperature, reduction="none")
    expected = [allrank_approx_ndcg(s, y, temperature) for s, y in zip(scores.double().numpy(), relevance.numpy())]
    assert_agrees(found, torch.tensor(expected, dtype=torch.float64), n_terms=ITEMS**2)


@pytest.mark.parametrize("span", [1.0, 79.0, 80.0, 80.1, 170.0, 1e30, float("inf")])
@pytest.mark.parametrize("offset", [0.0, -1e4])
def test_scores_apart_by(span, offset, device):
    """Up to 80 temperatures apart float32 scores are compared by their odds on the CPU, which err by no more than one
    rounding however far they lie from the middle; beyond, each pair takes an exponential of a rounded difference."""
    temperature, items = 0.5, 64
    scores = torch.cat([torch.rand(items - 4), torch.tensor([0.0, 0.01, 0.99, 1.0])])
    scores = (scores * span * temperature if span < float("inf") else torch.where(scores < 1, scores, span)) + offset
    relevance = torch.randint(5, (1, items)).to(device)

    def loss_and_gradient(dtype):
        x = scores.to(device, dtype)[None].requires_grad_()
        loss = F.approx_ndcg_loss(x, relevance, temperature=temperature)
        loss.backward()
        return loss.detach(), x.grad

    by_odds = device == "cpu" and span <= 80
    magnitude = 0.0 if by_odds else min(span, 170.0)  # of what matters: e^-170 is 0
    for found, expected in zip(loss_and_gradient(torch.float32), loss_and_gradient(torch.float64)):
        assert_agrees(found, expected, n_terms=items**2, magnitude=magnitude)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [None, 1, 4, 50])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_lambda_ndcg(sigma, k, dtype, device):
    scores, relevance = problem(dtype)
    found = F.lambda_ndcg_loss(scores.to(device), relevance.to(device), sigma=sigma, k=k, reduction="none")
    expected = [
        allrank_lambda_ndcg(s, y, sigma, k) for s, y in zip(scores.double().numpy(), relevance.double().numpy())
    ]
    assert_agrees(found, torch.tensor(expected, dtype=torch.float64), n_terms=ITEMS**2)


@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("loss", [F.approx_ndcg_loss, F.lambda_ndcg_loss])
def test_padding_equals_a_shorter_list(loss, k):
    scores, relevance = problem()
    mask = torch.ones(LISTS, ITEMS + 4, dtype=torch.bool)
    mask[:, [1, 5, 9, 14]] = False
    padded = torch.full((2, LISTS, ITEMS + 4), float("nan"), dtype=torch.float64)
    padded[0, mask], padded[1, mask] = scores.flatten(), relevance.flatten()
    found = padded[0].requires_grad_()
    value = loss(found, padded[1], mask=mask, k=k)
    value.backward()
    short = scores.requires_grad_()
    expected = loss(short, relevance, k=k)
    expected.backward()
    assert_agrees(value, expected, n_terms=ITEMS**2)
    assert_agrees(found.grad[mask], short.grad.flatten(), n_terms=ITEMS**2)
    assert (found.grad[~mask] == 0).all()


@pytest.mark.parametrize("loss", [F.approx_ndcg_loss, F.lambda_ndcg_loss])
def test_lists_that_say_nothing_give_zero(loss):
    scores = torch.randn(3, 4, requires_grad=True)
    relevance = torch.tensor([[0, 0, 0, 0], [3, 1, 0, 2], [0, 0, 0, 0]], dtype=torch.uint8)
    mask = torch.tensor([[True] * 4, [False] * 4, [False] * 4])
    value = loss(scores, relevance, mask=mask, reduction="none")
    value.sum().backward()
    assert (value == 0).all()
    assert (scores.grad == 0).all()


def test_ties_rank_in_the_order_of_the_input():
    """Two equal scores: the first has rank 1, so with k = 1 only it counts."""
    scores, relevance = torch.zeros(1, 2), torch.tensor([[0.0, 1.0]])
    assert F.approx_ndcg_loss(scores, relevance, k=1).item() == 1
    found = F.lambda_ndcg_loss(scores, relevance)
    assert_agrees(found, torch.tensor(np.log(2) * (1 - 1 / np.log2(3))), n_terms=2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [F.approx_ndcg_loss, F.lambda_ndcg_loss])
def test_extreme_half_scores_are_finite(loss, dtype):
    scores = torch.tensor([[1e4, -1e4, 0.0, 1e4]], dtype=dtype, requires_grad=True)
    value = loss(scores, torch.tensor([[0.0, 3.0, 1.0, 2.0]]))
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("loss", [F.approx_ndcg_loss, F.lambda_ndcg_loss])
@pytest.mark.parametrize("scale", [1e-3, 1e-6, 1e-12, 1e-30])
def test_gains_of_small_relevance(loss, scale, device):
    """2^r - 1 is r log 2 there, not 0: NDCG is that of the relevance itself."""
    scores = torch.tensor([[0.1, 0.5, 0.3, 0.2]], device=device, requires_grad=True)
    relevance = torch.tensor([[0.9, 0.1, 0.5, 0.7]], device=device)
    values = [loss(scores, relevance * s) for s in (scale, 1e-9)]
    slopes = [torch.autograd.grad(v, scores)[0] for v in values]
    torch.testing.assert_close(values[0], values[1], rtol=scale + 1e-5, atol=0)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=scale + 1e-5, atol=1e-5)

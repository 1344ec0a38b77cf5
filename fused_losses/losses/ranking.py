"""Ranking losses over lists of items (approximate NDCG, LambdaRank): formulas that `loss` fuses, and Modules."""

from __future__ import annotations

import math

import torch

from .. import _checks as check
from .._loss import loss
from .._module import LossModule
from .._options import Integer, Number
from ._shared import accumulate, reduce, rows_shape, softplus


def read_lists(scores, relevance, mask):
    """Scores, gains 2^rel - 1 and the mask of real items; a padded item has score 0 and gain 0, whatever it holds."""
    s, relevance = accumulate(scores, relevance)
    if mask is None:
        return s, gain_of(relevance), torch.ones_like(s, dtype=torch.bool)
    return torch.where(mask, s, 0), gain_of(torch.where(mask, relevance, 0)), mask


def gain_of(relevance):
    """2^rel - 1, exact near 0 and of integers."""
    return torch.where(relevance < 1, torch.expm1(relevance * math.log(2)), torch.exp2(relevance) - 1)


def current_ranks(s, real):
    """1 for the highest real score of each list; equal scores rank in the order of the input."""
    order = torch.arange(s.shape[1], device=s.device)
    above = s.unsqueeze(1) > s.unsqueeze(2)
    before = (s.unsqueeze(1) == s.unsqueeze(2)) & (order < order.unsqueeze(1))
    return 1 + ((above | before) & real.unsqueeze(1)).sum(2).to(s.dtype)


def discount(rank):
    """1 / log2(1 + rank)."""
    return 1 / torch.log2(1 + rank)


def ideal_dcg(gain, k):
    """DCG of the first k items of the best order; all if k is None."""
    n = gain.shape[1] if k is None else min(k, gain.shape[1])
    best = gain.sort(1, descending=True).values[:, :n]
    return (best * discount(torch.arange(1, n + 1, device=gain.device, dtype=gain.dtype))).sum(1)


def check_lists(name, scores, relevance, mask):
    """Scores (B, n), a relevance of each and, if given, a bool mask."""
    check.alike(name, "relevance", relevance, scores)
    if scores.ndim != 2:
        raise ValueError(f"{name}: expected scores of shape (B, n), got {tuple(scores.shape)}")
    if mask is not None:
        check.alike(name, "mask", mask, scores, frozenset({torch.bool}))


@loss(
    shape=rows_shape,
    check=check_lists,
    options={"temperature": Number(low=0, open=True), "k": Integer(low=1, none=0)},
)
def approx_ndcg_loss(scores, relevance, *, temperature=1.0, k=None, mask=None, reduction="mean"):
    """1 - NDCG of each list, its ranks replaced by smooth ones.

    .. math:: 1 - \\frac{1}{\\mathrm{IDCG}_k} \\sum_i \\frac{2^{r_i} - 1}{\\log_2(1 + \\rho_i)}, \\quad
        \\rho_i = 1 + \\sum_{j \\ne i} \\sigma\\left(\\frac{s_j - s_i}{T}\\right)

    Args:
        scores: s (B, n); float32, float64, float16 or bfloat16.
        relevance: r (B, n), not negative, at most 100 in float32, which holds 2^r; floating, bool, uint8, int32 or
            int64.
        temperature: T > 0; towards 0 the loss tends to 1 - NDCG.
        k: cut-off: the sum is over the items now ranked at most k (no gradient through that choice, equal scores in
            the order of the input), IDCG over the k best; None: all.
        mask: (B, n) bool, True for a real item; a padded one is not read.
        reduction: "none", "mean" (over all B lists) or "sum".

    Returns:
        A scalar, or (B,) with "none"; float64 for float64 scores, else float32.

    A list without relevance, without items or all padded gives 0 with gradient 0. NaN propagates, and so does that of
    two equal infinities, unless both items are beyond the cut-off; the mean of nothing is NaN. The kernels need memory
    O(B n), no B x n x n tensor.
    Raises ValueError or TypeError on a wrong shape, dtype, device or option.
    Qin, Liu and Li, "A general approximation framework for direct optimization of information retrieval measures"
    (2010).

    Example:
        >>> scores, relevance = torch.tensor([[0.2, 0.9, 0.1]]), torch.tensor([[2.0, 0.0, 1.0]])
        >>> F.approx_ndcg_loss(scores, relevance, temperature=0.1)
        tensor(0.3714)
    """
    s, gain, real = read_lists(scores, relevance, mask)
    ideal = ideal_dcg(gain, k)
    empty = ideal == 0
    counted = real & ~empty.unsqueeze(1)
    if k is not None:
        counted = counted & (current_ranks(s, real) <= k)
    # No lead of an item that does not count is formed: NaN there would reach the gradient, times 0.
    itself = torch.eye(s.shape[1], dtype=torch.bool, device=s.device)
    others = counted.unsqueeze(2) & real.unsqueeze(1) & ~itself
    lead = torch.where(others, s.unsqueeze(1) - s.unsqueeze(2), 0) / temperature
    rank = 1 + torch.where(others, lead.sigmoid(), 0).sum(2)
    terms = torch.where(counted, gain * discount(rank), 0)
    loss = torch.where(empty, 0, 1 - terms.sum(1) / torch.where(empty, 1, ideal))
    return reduce(loss, reduction)


class ApproxNDCGLoss(LossModule, function=approx_ndcg_loss, tensors=("scores", "relevance", "mask")):
    """Module of :func:`approx_ndcg_loss`; `forward(scores, relevance, mask=None)`.

    Example:
        >>> fused_losses.ApproxNDCGLoss(k=2)(torch.tensor([[0.2, 0.9, 0.1]]), torch.tensor([[2.0, 0.0, 1.0]]))
        tensor(0.4999)
    """


@loss(
    shape=rows_shape,
    check=check_lists,
    options={"sigma": Number(low=0, open=True), "k": Integer(low=1, none=0)},
)
def lambda_ndcg_loss(scores, relevance, *, sigma=1.0, k=None, mask=None, reduction="mean"):
    """LambdaRank: a logistic loss of each pair, weighted by what exchanging the two would change in NDCG.

    .. math:: \\frac{1}{\\mathrm{IDCG}_k} \\sum_{r_i > r_j} \\log(1 + e^{-\\sigma (s_i - s_j)}) \\;
        |2^{r_i} - 2^{r_j}| \\; \\left| \\frac{1}{\\log_2(1+\\rho_i)} - \\frac{1}{\\log_2(1+\\rho_j)} \\right|

    with ρ the current ranks: equal scores rank in the order of the input, and no gradient flows through them.

    Args:
        scores: s (B, n); float32, float64, float16 or bfloat16.
        relevance: r (B, n), not negative, at most 100 in float32, which holds 2^r; floating, bool, uint8, int32 or
            int64.
        sigma: steepness, > 0.
        k: cut-off: only pairs with both current ranks at most k, IDCG over the k best; None: all.
        mask: (B, n) bool, True for a real item; a padded one is not read.
        reduction: "none" (the sum over each list's pairs), "mean" (over all B lists) or "sum".

    Returns:
        A scalar, or (B,) with "none"; float64 for float64 scores, else float32.

    A list without relevance, without items or all padded gives 0 with gradient 0. Finite for any finite scores. NaN
    propagates from an item that is in a pair; the mean of nothing is NaN. The kernels need memory O(B n).
    Raises ValueError or TypeError on a wrong shape, dtype, device or option.
    Burges, "From RankNet to LambdaRank to LambdaMART: an overview" (2010); Wang et al., "The LambdaLoss framework for
    ranking metric optimization" (2018).

    Example:
        >>> scores = torch.tensor([[0.2, 0.9, 0.1]], requires_grad=True)
        >>> F.lambda_ndcg_loss(scores, torch.tensor([[2.0, 0.0, 1.0]])).backward()
        >>> scores.grad  # the best item is to rise, the second, of no relevance, to sink
        tensor([[-0.2380,  0.2988, -0.0608]])
    """
    s, gain, real = read_lists(scores, relevance, mask)
    rank = current_ranks(s, real)
    pairs = (gain.unsqueeze(2) > gain.unsqueeze(1)) & real.unsqueeze(2) & real.unsqueeze(1)
    if k is not None:
        pairs = pairs & (rank <= k).unsqueeze(2) & (rank <= k).unsqueeze(1)
    lead = torch.where(pairs, s.unsqueeze(2) - s.unsqueeze(1), 0)
    d = discount(rank)
    weight = (gain.unsqueeze(2) - gain.unsqueeze(1)) * (d.unsqueeze(2) - d.unsqueeze(1)).abs()
    total = torch.where(pairs, weight * softplus(-sigma * lead), 0).sum((1, 2))
    ideal = ideal_dcg(gain, k)
    empty = ideal == 0
    return reduce(torch.where(empty, 0, total / torch.where(empty, 1, ideal)), reduction)


class LambdaNDCGLoss(LossModule, function=lambda_ndcg_loss, tensors=("scores", "relevance", "mask")):
    """Module of :func:`lambda_ndcg_loss`; `forward(scores, relevance, mask=None)`.

    Example:
        >>> fused_losses.LambdaNDCGLoss(sigma=2.0)(torch.tensor([[0.2, 0.9, 0.1]]), torch.tensor([[2.0, 0.0, 1.0]]))
        tensor(0.7829)
    """

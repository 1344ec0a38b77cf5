"""Losses of a labelled set, mined (multi-similarity, batch-hard triplet): formulas in plain PyTorch, and Modules."""

from __future__ import annotations

import torch

from .._loss import loss
from .._module import LossModule
from .._op import MEAN
from .._options import Flag, Number
from ..losses._shared import accumulate, scalar_shape, softplus
from ..losses.distance import safe_sqrt
from ._shared import OperandFlag, product, unit_rows
from .contrastive import check_labelled_set


def labelled_rows(features, labels, normalize):
    """The op's tensors."""
    return unit_rows(features) if normalize else features, labels.long(), None, None


def log_one_plus_sum(exponents, kept):
    """log(1 + the sum over each row of e^exponent where kept)."""
    one = exponents.new_zeros(exponents.shape[0], 1)
    return torch.cat([one, torch.where(kept, exponents, -torch.inf)], 1).logsumexp(1)


def multi_similarity_of(features, labels, alpha, beta, base, epsilon):
    """Mean over the rows of both logarithms, over the pairs that the mining keeps."""
    (z,) = accumulate(features)
    s = product(z, z.mT)
    same = labels.unsqueeze(1) == labels
    positive = same & ~torch.eye(s.shape[0], dtype=torch.bool, device=s.device)
    edge = s.new_full((s.shape[0], 1), torch.inf)  # of a row without such pairs, and of none at all
    low = torch.cat([edge, torch.where(positive, s, torch.inf)], 1).amin(1, keepdim=True)
    high = torch.cat([-edge, torch.where(same, -torch.inf, s)], 1).amax(1, keepdim=True)
    near = log_one_plus_sum(-alpha * (s - base), positive & ~(s - epsilon >= high))
    far = log_one_plus_sum(beta * (s - base), ~same & ~(s + epsilon <= low))
    return (near / alpha + far / beta).sum() / s.shape[0]


def four_of_each_row(tensors, options, reduction):
    """What the forward keeps."""
    return [(tensors[0].shape[0], 4)]


@loss(
    shape=scalar_shape,
    check=check_labelled_set,
    operands=labelled_rows,
    kernel=multi_similarity_of,
    options={
        "alpha": Number(low=0, open=True),
        "beta": Number(low=0, open=True),
        "base": Number(),
        "epsilon": Number(low=0),
        "normalize": OperandFlag(),
    },
    saved_shapes=four_of_each_row,
    unreduced=MEAN,
)
def multi_similarity_loss(features, labels, *, alpha=2.0, beta=50.0, base=0.5, epsilon=0.1, normalize=True):
    """Multi-similarity loss of all rows, with its own mining of pairs.

    .. math:: \\frac{1}{N} \\sum_i \\frac{1}{\\alpha} \\log \\Big( 1 + \\sum_{p \\in P_i}
        e^{-\\alpha (s_{ip} - \\lambda)} \\Big)
        + \\frac{1}{\\beta} \\log \\Big( 1 + \\sum_{n \\in N_i} e^{\\beta (s_{in} - \\lambda)} \\Big)

    with P_i the other rows of i's label less similar than its most similar negative plus ε, and N_i the rows of other
    labels more similar than its least similar positive minus ε; the choice has no gradient.

    Args:
        features: z (N, D), s = z zᵀ; float32, float64, float16 or bfloat16.
        labels: (N,), uint8, int32 or int64; any numbers.
        alpha, beta: α > 0 and β > 0, how sharply the positives and the negatives are weighted.
        base: λ, the similarity from which pairs are pulled and pushed.
        epsilon: ε >= 0, the margin of the mining.
        normalize: divide each row by its norm (at least 1e-12) first, in float32 at least.

    Returns:
        A scalar; float64 for float64 features, else float32.

    Three products of N x N x D forward and backward; two where all similarities fit into 64 MiB on the CPU (24 on
    CUDA); one without gradients. Memory, second derivatives and rounding as :func:`sup_con_loss`. A row without a
    positive, or without a negative, keeps nothing and is 0; it counts in the mean. NaN propagates; the loss of nothing
    is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device or option.
    Wang et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning" (2019).

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> F.multi_similarity_loss(z, torch.tensor([0, 0, 1]))
        tensor(0.2262)
    """
    features, labels, _, _ = labelled_rows(features, labels, normalize)
    return multi_similarity_of(features, labels, alpha, beta, base, epsilon)


class MultiSimilarityLoss(LossModule, function=multi_similarity_loss, tensors=("features", "labels")):
    """Module of :func:`multi_similarity_loss`.

    Example:
        >>> criterion = fused_losses.MultiSimilarityLoss(base=0.0, beta=10.0)
        >>> criterion(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), torch.tensor([0, 0, 1]))
        tensor(0.1386)
    """


def plain_set(features, labels):
    """The op's tensors."""
    return features, labels.long()


def extremes_of(features, labels):
    """The number of each row's farthest positive and of its nearest negative, and whether it has both."""
    z = features.detach()
    s = (z * z).sum(1) - 2 * product(z, z.mT)  # the squared distance less the row's own squared norm
    s = s.clamp(torch.finfo(s.dtype).min, torch.finfo(s.dtype).max)  # infinity stands for what is no candidate
    same = labels.unsqueeze(1) == labels
    positive = same & ~torch.eye(s.shape[0], dtype=torch.bool, device=s.device)
    counts = positive.any(1) & ~same.all(1)
    if s.shape[0] == 0:  # argmax refuses
        return s.new_zeros(0, dtype=torch.long), s.new_zeros(0, dtype=torch.long), counts
    return torch.where(positive, s, -torch.inf).argmax(1), torch.where(same, torch.inf, s).argmin(1), counts


def batch_hard_of(features, labels, margin, squared, soft):
    """Mean over the anchors with a positive and a negative of the triplet loss of both distances."""
    (z,) = accumulate(features)
    farthest, nearest, counts = extremes_of(z, labels)

    def distance(other):
        square = ((z - z[other]) ** 2).sum(1)
        return square if squared else safe_sqrt(square)

    gap = distance(farthest) - distance(nearest)
    losses = softplus(gap) if soft else (margin + gap).relu()
    return torch.where(counts, losses, 0).sum() / counts.sum()


@loss(
    shape=scalar_shape,
    check=check_labelled_set,
    operands=plain_set,
    kernel=batch_hard_of,
    options={"margin": Number(low=0), "squared": Flag(), "soft": Flag()},
    saved_shapes=four_of_each_row,
    unreduced=MEAN,
)
def triplet_batch_hard_loss(features, labels, *, margin=1.0, squared=False, soft=False):
    """Triplet loss of each row with its farthest row of the same label and its nearest row of another.

    .. math:: \\frac{1}{|A|} \\sum_{i \\in A} \\max\\Big( 0, m + \\max_{p \\in P_i} d_{ip}
        - \\min_{n \\in N_i} d_{in} \\Big), \\quad d_{ij} = \\lVert z_i - z_j \\rVert_2

    with P_i the other rows of i's label, N_i the rows of other labels and A the rows that have both; the choice has no
    gradient, and of equal ones takes the first.

    Args:
        features: z (N, D), as they are; float32, float64, float16 or bfloat16.
        labels: (N,), uint8, int32 or int64; any numbers.
        margin: m >= 0, how much nearer the positive is to be; without meaning with `soft`.
        squared: squared distances.
        soft: log(1 + exp(difference)) in place of max(0, m + difference).

    Returns:
        A scalar; float64 for float64 features, else float32.

    One product of N x N x D, forward and backward together: of the similarities a tile of some rows is there at a time,
    32 MiB on the CPU and 24 on CUDA or, where N is large, 64 rows. They choose; the chosen distances come from the rows
    themselves, so that near duplicates keep their digits, but rows whose distances agree to the rounding of a
    squared norm may be taken for each other. Memory beyond that and the gradient: for half-precision features them and
    their gradient in float32. Second derivatives and torch.func come from plain PyTorch, which holds all similarities.
    At a distance of 0 the gradient is 0. A row without a positive or a negative contributes 0 and leaves the mean;
    where no row has both the loss is NaN with gradient 0, as is that of nothing. NaN propagates.
    Raises ValueError or TypeError on a wrong shape, dtype, device or option; RuntimeError on 2²⁴ rows or more.
    Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification" (2017).

    Example:
        >>> z = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
        >>> F.triplet_batch_hard_loss(z, torch.tensor([0, 0, 1]))  # 1 + 5 - 2 and 1 + 5 - 3.61; no third anchor
        tensor(3.1972)
    """
    return batch_hard_of(features, labels, margin, squared, soft)


class TripletBatchHardLoss(LossModule, function=triplet_batch_hard_loss, tensors=("features", "labels")):
    """Module of :func:`triplet_batch_hard_loss`.

    Example:
        >>> criterion = fused_losses.TripletBatchHardLoss(soft=True)
        >>> criterion(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0, 0, 1]))
        tensor(0.2201)
    """

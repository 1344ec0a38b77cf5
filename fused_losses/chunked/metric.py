"""Losses of all pairs of a labelled set, mined (multi-similarity): formulas in plain PyTorch, and Modules."""

from __future__ import annotations

import torch

from .._loss import loss
from .._module import LossModule
from .._op import MEAN
from .._options import Number
from ..losses._shared import accumulate
from ._shared import OperandFlag, product, unit_rows
from .contrastive import check_labelled_set, scalar_shape


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


def mined(tensors, options, reduction):
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
    saved_shapes=mined,
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

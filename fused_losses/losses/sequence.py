"""Expected BLEU of the token distributions of a sequence model: the formula, which `loss` fuses, and the Module."""

from __future__ import annotations

import torch

from .. import _checks as check
from .._loss import loss
from .._module import LossModule
from .._op import accumulation_dtype
from .._options import Integer, Number
from ._shared import reduce, rows_shape

LENGTHS = frozenset({torch.int32, torch.int64})


def _lengths(lengths, logits, full):
    if lengths is None:
        return torch.full(logits.shape[:1], full, dtype=torch.int64, device=logits.device)
    return lengths.long()


def check_sentences(name, logits, target, logits_lengths, target_lengths):
    """Logits (B, T, V), class indices (B, U) and, if given, lengths (B,)."""
    check.tensor(name, "target", target, check.CLASS_INDEX)
    if logits.ndim != 3:
        raise ValueError(f"{name}: expected logits of shape (B, T, V), got {tuple(logits.shape)}")
    batch = logits.shape[:1]
    if target.ndim != 2 or target.shape[:1] != batch:
        raise ValueError(f"{name}: expected target of shape ({batch[0]}, U), got {tuple(target.shape)}")
    check.same_device(name, "target", target, logits)
    for argument, value in (("logits_lengths", logits_lengths), ("target_lengths", target_lengths)):
        if value is not None:
            check.shaped(name, argument, value, batch, logits, LENGTHS)


@loss(
    shape=rows_shape,
    check=check_sentences,
    options={"max_order": Integer(low=1, high=1024), "smooth": Number(low=0)},
)
def expected_bleu_loss(
    logits, target, *, max_order=4, logits_lengths=None, target_lengths=None, smooth=1.0, reduction="mean"
):
    """1 - BLEU with the n-gram counts a model expects under its token distributions.

    .. math:: 1 - \\mathrm{BP} \\exp\\left(\\frac{1}{N} \\sum_{n=1}^{N} \\log
        \\frac{\\sum_g \\min(E[c_g], c^*_g) + k_n}{T - n + 1 + k_n}\\right), \\quad
        E[c_g] = \\sum_t \\prod_j p_{t+j, g_j}

    over the distinct n-grams g of the reference, c* their counts there, p the softmax of the logits, k_1 = 0 and
    k_n = `smooth` above, BP = exp(1 - U/T) if T < U, else 1.

    Args:
        logits: (B, T, V); float32, float64, float16 or bfloat16.
        target: the references' tokens (B, U), in [0, V); uint8, int32 or int64.
        max_order: N, the longest n-gram, from 1 to 1024.
        logits_lengths, target_lengths: (B,), int32 or int64: the T and U of each sample; beyond them nothing is read.
        smooth: added to numerator and denominator of the orders above 1, >= 0.
        reduction: "none", "mean" (over the samples) or "sum".

    Returns:
        A scalar, or (B,) with "none"; float64 for float64 logits, else float32.

    T < n gives the precision k_n / k_n = 1 (0 with `smooth=0`). Without a unigram match (an expected one below the
    smallest normal number counts as none), or with a precision of 0, the loss is 1 with gradient 0. Where an expected
    count equals the reference's, the gradient is that below it. NaN propagates, except from beyond a length; the mean
    of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device or option; a length or a class out of range is an
    error on the CPU and a device assertion on CUDA.
    Papineni et al., "BLEU" (2002); Shao et al., "Minimizing the bag-of-ngrams difference" (2020). With one-hot
    distributions, sacrebleu's sentence BLEU with ``smooth_method="add-k"``.

    Example:
        >>> reference = torch.tensor([[1, 2, 3, 0]])
        >>> sure = 9.0 * torch.nn.functional.one_hot(reference, 4)  # logits (1, 4, 4)
        >>> F.expected_bleu_loss(sure, reference)
        tensor(0.0005)
    """
    (B, T, _), U = logits.shape, target.shape[1]
    x = logits.to(accumulation_dtype(logits.dtype))
    t_length = _lengths(logits_lengths, logits, T)
    u_length = _lengths(target_lengths, logits, U)
    t_inside = torch.arange(T, device=x.device) < t_length.unsqueeze(1)
    u_inside = torch.arange(U, device=x.device) < u_length.unsqueeze(1)
    tokens = torch.where(u_inside, target.long(), 0)
    p = torch.where(t_inside.unsqueeze(2), x, 0).softmax(2)
    p = p.gather(2, tokens.unsqueeze(1).expand(B, T, U))
    p = torch.where(t_inside.unsqueeze(2) & u_inside.unsqueeze(1), p, 0)
    same = (tokens.unsqueeze(1) == tokens.unsqueeze(2)) & u_inside.unsqueeze(1) & u_inside.unsqueeze(2)

    # of each reference n-gram, at its start: the probability at each position, and its equals in the reference
    product, equal = p, same
    logs, no_match = [], torch.zeros_like(t_length, dtype=torch.bool)
    for n in range(1, min(max_order, T + 1) + 1):  # all orders above T are as T + 1
        if n > 1:
            product = product[:, :-1, :-1] * p[:, n - 1 :, n - 1 :]
            equal = equal[:, :-1, :-1] & same[:, n - 1 :, n - 1 :]
        expected, count = product.sum(1), equal.sum(2).to(x.dtype)
        clipped = torch.where(expected > count, count, expected)
        matches = (clipped / count.clamp(min=1)).sum(1)
        k = smooth if n > 1 else 0
        total = (t_length - n + 1).clamp(min=0).to(x.dtype) + k
        none = matches + k < torch.finfo(x.dtype).tiny
        no_match = no_match | none
        logs.append((torch.where(none, 1, matches + k) / torch.where(none, 1, total)).log())
    shortfall = u_length.to(x.dtype) / t_length.clamp(min=1).to(x.dtype) - 1
    log_bleu = sum(logs) / max_order - shortfall.clamp(min=0)
    return reduce(torch.where(no_match, 1, 1 - log_bleu.exp()), reduction)


class ExpectedBLEULoss(
    LossModule, function=expected_bleu_loss, tensors=("logits", "target", "logits_lengths", "target_lengths")
):
    """Module of :func:`expected_bleu_loss`; `forward(logits, target, logits_lengths=None, target_lengths=None)`.

    Example:
        >>> criterion = fused_losses.ExpectedBLEULoss(max_order=2)
        >>> criterion(torch.zeros(1, 4, 4), torch.tensor([[1, 2, 3, 0]]))
        tensor(0.3750)
    """

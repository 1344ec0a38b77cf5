"""Divergences between distributions: formulas in plain PyTorch, which `loss` fuses, and Modules.

All reductions include "batchmean": the sum over input.shape[0] (over 1 for an input without dimensions).
"""

from __future__ import annotations

import math

import torch

from .. import _checks as check
from .._loss import loss
from .._module import LossModule
from .._op import NONE
from .._options import DIVERGENCE_REDUCTIONS, Dim, Flag, Number
from ._shared import accumulate, elementwise_shape, exp_excess, leading_shape, log_add_exp, reduce, without
from .binary import check_pair


def over_batch(loss, reduction, input):
    """The losses reduced; "batchmean" is their sum over input.shape[0]."""
    batch = input.shape[0] if reduction == "batchmean" and input.dim() else 1
    return reduce(loss, reduction, batch if reduction == "batchmean" else None)


def with_a_batch(input, target, reduction):
    """The op's tensors: a batch of one for "batchmean" of an input without dimensions."""
    if reduction == "batchmean" and not input.dim():
        input, target = input.reshape(1), target.reshape(1)
    return input, target, None, None


def in_deviations(d, logvar):
    """d e^(-logvar/2), by factors of which none overflows before the square of the result does."""
    quarter = torch.exp((-logvar / 4).clamp(max=700.0 if d.dtype is torch.float64 else 88.0))
    return d * quarter * quarter


@loss(
    shape=elementwise_shape,
    check=check_pair,
    options={"log_target": Flag()},
    reductions=DIVERGENCE_REDUCTIONS,
    operands=with_a_batch,
)
def kl_div(input, target, reduction="mean", log_target=False):
    """Kullback-Leibler divergence from log-probabilities, element by element.

    .. math:: t \\, (\\log t - x) \\quad \\text{or, with log_target,} \\quad e^t \\, (t - x)

    Args:
        input: log-probabilities x, any shape; float32, float64, float16 or bfloat16.
        target: probabilities t, or their logarithms with `log_target`; the input's shape; floating, bool,
            uint8, int32 or int64.
        reduction: "none", "mean" (over the elements), "batchmean" (the sum over input.shape[0]: the divergence itself)
            or "sum".
        log_target: whether `target` holds logarithms.

    Returns:
        A scalar, or the input's shape with "none"; float64 for a float64 input, else float32.

    A target of 0 contributes 0 and gets gradient 0 whatever the input, a log-target of -inf likewise; NaN propagates;
    the mean of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device or reduction.
    Same as :func:`torch.nn.functional.kl_div`, where that is not NaN by 0 times infinity.

    Example:
        >>> log_q, p = torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0])
        >>> F.kl_div(log_q, p, reduction="sum")  # log 2
        tensor(0.6931)
    """
    x, t = accumulate(input, target)
    empty = (t == (-torch.inf if log_target else 0)) & ~x.isnan()
    x = torch.where(empty, 0, x)
    if log_target:
        t = torch.where(empty, 0, t)
        loss = t.exp() * (t - x)
    else:
        t = torch.where(empty, 1, t)
        loss = t * (t.log() - x)
    return over_batch(torch.where(empty, 0, loss), reduction, input)


class KLDivLoss(LossModule, function=kl_div):
    """Module of :func:`kl_div`.

    Example:
        >>> criterion = fused_losses.KLDivLoss(reduction="batchmean")
        >>> criterion(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]))
        tensor(0.3681)
    """


def _log_distance(log_p, log_q):
    """p (log p - log q) - p + q, q where p is 0, underflown too; summed over distributions, -p + q is 0.

    Never negative; an error that all of a row's log p, or log q, have in common does not reach the sum.
    """
    empty = (log_p.exp() == 0) & ~log_q.isnan()
    q = log_q.exp()
    log_p, other = without(empty, log_p, log_q)
    p, d = log_p.exp(), other - log_p
    near = d < 1
    far = q - p - p * torch.where(near, 1, d)
    return torch.where(empty, q, torch.where(near, p * exp_excess(torch.where(near, d, 0)), far))


def _without_dim(tensors, options, reduction):
    """The input's shape without dimension `dim` for "none", else a scalar."""
    shape, dim = tensors[0].shape, int(options["dim"])
    return shape[:dim] + shape[dim + 1 :] if reduction == NONE else ()


def check_both_logits(name, input, target):
    """A floating target of the input's shape."""
    check.alike(name, "target", target, input, check.FLOATING)


@loss(
    shape=_without_dim,
    check=check_both_logits,
    options={"temperature": Number(low=0, open=True), "dim": Dim()},
    reductions=DIVERGENCE_REDUCTIONS,
)
def kl_div_with_logits(input, target, reduction="batchmean", *, temperature=1.0, dim=-1):
    """Kullback-Leibler divergence of a student's distribution from a teacher's, both given by logits.

    .. math:: T^2 \\sum_c p_c \\, (\\log p_c - \\log q_c), \\quad p = \\mathrm{softmax}(t/T), \\;
        q = \\mathrm{softmax}(x/T)

    Args:
        input: the student's logits x, any shape with at least one dimension; float32, float64, float16 or bfloat16.
        target: the teacher's logits t, the input's shape; any floating dtype. Gradients flow to it if it requires them.
        reduction: "none", "mean" (over the rows), "batchmean" (the sum over input.shape[0]) or "sum".
        temperature: T > 0; the factor T² keeps the gradient's size.
        dim: the dimension of the classes.

    Returns:
        A scalar, or the input's shape without `dim` with "none"; float64 for a float64 input, else float32.

    Finite for any finite logits. A teacher's logit of -inf contributes 0, a student's alone infinity; NaN propagates;
    the mean of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device, reduction or option.
    Hinton, Vinyals and Dean (2015), "Distilling the Knowledge in a Neural Network".

    Example:
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> F.kl_div_with_logits(student, teacher, temperature=2.0)
        tensor(0.4438)
    """
    x, t = accumulate(input, target)
    log_p, log_q = (t / temperature).log_softmax(dim), (x / temperature).log_softmax(dim)
    return over_batch(_log_distance(log_p, log_q).sum(dim) * temperature**2, reduction, input)


class KLDivWithLogitsLoss(LossModule, function=kl_div_with_logits):
    """Module of :func:`kl_div_with_logits`.

    Example:
        >>> fused_losses.KLDivWithLogitsLoss(temperature=2.0)(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
        tensor(0.4438)
    """


@loss(
    shape=_without_dim,
    check=check_both_logits,
    options={"beta": Number(low=0, high=1, open=True), "dim": Dim()},
    reductions=DIVERGENCE_REDUCTIONS,
)
def js_div_with_logits(input, target, reduction="batchmean", *, beta=0.5, dim=-1):
    """Generalised Jensen-Shannon divergence of two distributions given by logits.

    .. math:: \\beta \\, KL(P \\| M) + (1-\\beta) \\, KL(Q \\| M), \\quad M = \\beta P + (1-\\beta) Q, \\;
        P = \\mathrm{softmax}(t), \\; Q = \\mathrm{softmax}(x)

    Args:
        input: logits x, any shape with at least one dimension; float32, float64, float16 or bfloat16.
        target: logits t, the input's shape; any floating dtype. Gradients flow to it if it requires them.
        reduction: "none", "mean" (over the rows), "batchmean" (the sum over input.shape[0]) or "sum".
        beta: weight of P in the mixture, 0 < beta < 1.
        dim: the dimension of the classes.

    Returns:
        A scalar, or the input's shape without `dim` with "none"; float64 for a float64 input, else float32. At most
        log 2 for a row with beta 1/2.

    Finite for any finite logits, also where both probabilities underflow; a logit of -inf contributes 0 on its side;
    NaN propagates; the mean of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device, reduction or option.
    Lin (1991), "Divergence measures based on the Shannon entropy".

    Example:
        >>> F.js_div_with_logits(torch.tensor([[9.0, -9.0]]), torch.tensor([[-9.0, 9.0]]))  # almost log 2
        tensor(0.6931)
    """
    x, t = accumulate(input, target)
    log_p, log_q = t.log_softmax(dim), x.log_softmax(dim)
    empty = (log_p == -torch.inf) & (log_q == -torch.inf)
    a, b = without(empty, log_p, log_q)
    log_m = torch.where(empty, -torch.inf, log_add_exp(a + math.log(beta), b + math.log1p(-beta)))
    loss = beta * _log_distance(log_p, log_m) + (1 - beta) * _log_distance(log_q, log_m)
    return over_batch(loss.sum(dim), reduction, input)


class JSDivWithLogitsLoss(LossModule, function=js_div_with_logits):
    """Module of :func:`js_div_with_logits`.

    Example:
        >>> fused_losses.JSDivWithLogitsLoss(beta=0.3)(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        tensor(0.0938)
    """


def check_gaussians(name, mu, logvar, prior_mu, prior_logvar):
    """Floating tensors of one shape with at least one dimension; no prior is standard normal."""
    check.alike(name, "logvar", logvar, mu, check.FLOATING)
    if not mu.dim():
        raise ValueError(f"{name}: expected mu with at least one dimension, got a tensor without any")
    if prior_mu is not None:
        check.alike(name, "prior_mu", prior_mu, mu, check.FLOATING)
    if prior_logvar is not None:
        check.alike(name, "prior_logvar", prior_logvar, mu, check.FLOATING)


def of_one_dtype(mu, logvar, prior_mu, prior_logvar):
    """The tensors as they are where they have one dtype, else in mu's accumulation dtype."""
    tensors = mu, logvar, prior_mu, prior_logvar
    for t in tensors:
        if t is not None and t.dtype is not mu.dtype:
            return accumulate(*tensors)
    return tensors


@loss(shape=leading_shape, check=check_gaussians, reductions=DIVERGENCE_REDUCTIONS, operands=of_one_dtype)
def gaussian_kl(mu, logvar, prior_mu=None, prior_logvar=None, reduction="batchmean"):
    """Kullback-Leibler divergence of a diagonal Gaussian from a diagonal Gaussian prior.

    .. math:: \\tfrac12 \\sum_i \\left( r_i - v_i - 1 + e^{v_i - r_i} + (\\mu_i - m_i)^2 e^{-r_i} \\right)

    Args:
        mu, logvar: mean μ and logarithm of the variance v, one shape (..., D); float32, float64, float16 or bfloat16.
        prior_mu, prior_logvar: m and r of the prior, the same shape; None stands for 0, the standard normal.
        reduction: "none", "mean" (over the rows), "batchmean" (the sum over mu.shape[0]) or "sum".

    Returns:
        A scalar, or mu.shape[:-1] with "none"; float64 for a float64 mu, else float32. 0 where both are the same.

    exp of a large logvar overflows to infinity; NaN propagates; the mean of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device or reduction.
    Kingma and Welling (2014), "Auto-Encoding Variational Bayes", appendix B.

    Example:
        >>> mu, logvar = torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)
        >>> F.gaussian_kl(mu, logvar)
        tensor(0.5000)
    """
    m, v, pm, pv = accumulate(mu, logvar, prior_mu, prior_logvar)
    d = m if pm is None else m - pm
    ratio = v if pv is None else v - pv
    z = d if pv is None else in_deviations(d, pv)
    return over_batch((exp_excess(ratio) + z * z).sum(-1) / 2, reduction, mu)


class GaussianKLLoss(LossModule, function=gaussian_kl, tensors=("mu", "logvar", "prior_mu", "prior_logvar")):
    """Module of :func:`gaussian_kl`; `forward` takes the prior's tensors, where there are any, after mu and logvar.

    Example:
        >>> fused_losses.GaussianKLLoss(reduction="sum")(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
        tensor(0.5000)
    """

"""Divergences between distributions: each one's reference, public function and Module side by side.

All reductions include "batchmean": the sum over input.shape[0] (over 1 for an input without dimensions).
"""

from __future__ import annotations

import math

import torch

from .. import _checks as check
from .._autograd import fused
from .._module import LossModule
from .._ops import BATCHMEAN, NONE, SUM, Op, accumulation_dtype
from ._shared import accumulate, elementwise_shape, exp_excess, log_add_exp, reduce, without

BOTH = ("input", "target")


def _reduce(loss, reduction, input):
    batch = input.shape[0] if reduction == "batchmean" and input.dim() else 1
    return reduce(loss, reduction, batch if reduction == "batchmean" else None)


def reference_kl_div(input, target, reduction="mean", log_target=False):
    """t (log t - x), or e^t (t - x) with log_target; a target of 0 (log_target: -inf) gives 0 with gradient 0."""
    x, t = accumulate(input, target)
    empty = (t == (-torch.inf if log_target else 0)) & ~x.isnan()
    x = torch.where(empty, 0, x)
    if log_target:
        t = torch.where(empty, 0, t)
        loss = t.exp() * (t - x)
    else:
        t = torch.where(empty, 1, t)
        loss = t * (t.log() - x)
    return _reduce(torch.where(empty, 0, loss), reduction, input)


# tensors: input, target, None, None (the elementwise signature). options: log_target (0 or 1).
_kl_div = Op(reference_kl_div, BOTH, elementwise_shape, differentiable=BOTH)


def kl_div(input, target, reduction="mean", log_target=False):
    """Kullback-Leibler divergence from log-probabilities, element by element.

    .. math:: t \\, (\\log t - x) \\quad \\text{or, with log_target,} \\quad e^t \\, (t - x)

    Args:
        input: log-probabilities x, any shape; float32, float64, float16 or bfloat16.
        target: probabilities t, or their logarithms with `log_target`; the input's shape; any floating dtype, bool or
            uint8.
        reduction: "none", "mean" (over the elements), "batchmean" (the sum over input.shape[0]: the divergence itself)
            or "sum".
        log_target: whether `target` holds logarithms.

    Returns:
        A scalar, or the input's shape with "none"; float64 for a float64 input, else float32.

    A target of 0 contributes 0 and gets gradient 0 whatever the input, a log-target of -inf likewise; NaN propagates;
    the mean of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device or reduction.
    Same as :func:`torch.nn.functional.kl_div`, where that is not NaN by 0 times infinity.
    """
    name = "kl_div"
    check.pair(name, input, target)
    code = check.divergence_reduction_code(name, reduction)
    check.flag(name, "log_target", log_target)
    if code == BATCHMEAN and not input.dim():  # a batch of one
        code = SUM
    keywords = {"reduction": reduction, "log_target": log_target}
    return fused(_kl_div, (input, target, None, None), (float(log_target),), code, keywords)


class KLDivLoss(LossModule, function=kl_div):
    """Module of :func:`kl_div`."""


def _log_distance(log_p, log_q):
    """p (log p - log q), 0 with gradient 0 where log p is -inf."""
    empty = (log_p == -torch.inf) & ~log_q.isnan()
    log_p, log_q = without(empty, log_p, log_q)
    return torch.where(empty, 0, log_p.exp() * (log_p - log_q))


def _without_dim(tensors, options, reduction):
    """The input's shape without the dim in options[1] for "none", else a scalar."""
    shape, dim = tensors[0].shape, int(options[1])
    return shape[:dim] + shape[dim + 1 :] if reduction == NONE else ()


def _dim(name, input, dim):
    """`dim` in [0, input.dim())."""
    n = input.dim()
    check.integer(name, "dim", dim)
    if not -n <= dim < n:
        raise ValueError(f"{name}: expected dim >= {-n} and < {n}, got {dim}")
    return dim % n


def reference_kl_div_with_logits(input, target, reduction="batchmean", *, temperature=1.0, dim=-1):
    """T² Σ p (log p - log q), p = softmax(target/T), q = softmax(input/T)."""
    x, t = accumulate(input, target)
    log_p, log_q = (t / temperature).log_softmax(dim), (x / temperature).log_softmax(dim)
    return _reduce(_log_distance(log_p, log_q).sum(dim) * temperature**2, reduction, input)


# tensors: input, target, None. options: temperature, dim >= 0.
_kl_div_with_logits = Op(reference_kl_div_with_logits, BOTH, _without_dim, differentiable=BOTH)


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
    """
    name = "kl_div_with_logits"
    check.pair(name, input, target, check.FLOATING)
    code = check.divergence_reduction_code(name, reduction)
    check.number(name, "temperature", temperature, 0, open_low=True)
    dim = _dim(name, input, dim)
    keywords = {"reduction": reduction, "temperature": temperature, "dim": dim}
    return fused(_kl_div_with_logits, (input, target, None), (temperature, dim), code, keywords)


class KLDivWithLogitsLoss(LossModule, function=kl_div_with_logits):
    """Module of :func:`kl_div_with_logits`."""


def reference_js_div_with_logits(input, target, reduction="batchmean", *, beta=0.5, dim=-1):
    """beta Σ p (log p - log m) + (1-beta) Σ q (log q - log m), m = beta p + (1-beta) q."""
    x, t = accumulate(input, target)
    log_p, log_q = t.log_softmax(dim), x.log_softmax(dim)
    empty = (log_p == -torch.inf) & (log_q == -torch.inf)
    a, b = without(empty, log_p, log_q)
    log_m = log_add_exp(a + math.log(beta), b + math.log1p(-beta))
    loss = beta * _log_distance(log_p, log_m) + (1 - beta) * _log_distance(log_q, log_m)
    return _reduce(loss.sum(dim), reduction, input)


# tensors: input, target, None. options: beta, dim >= 0.
_js_div_with_logits = Op(reference_js_div_with_logits, BOTH, _without_dim, differentiable=BOTH)


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
    """
    name = "js_div_with_logits"
    check.pair(name, input, target, check.FLOATING)
    code = check.divergence_reduction_code(name, reduction)
    check.number(name, "beta", beta)
    if not 0 < beta < 1:
        raise ValueError(f"{name}: expected beta > 0 and < 1, got {beta!r}")
    dim = _dim(name, input, dim)
    keywords = {"reduction": reduction, "beta": beta, "dim": dim}
    return fused(_js_div_with_logits, (input, target, None), (beta, dim), code, keywords)


class JSDivWithLogitsLoss(LossModule, function=js_div_with_logits):
    """Module of :func:`js_div_with_logits`."""


def reference_gaussian_kl(mu, logvar, prior_mu=None, prior_logvar=None, reduction="batchmean"):
    """½ Σ (pv - v - 1 + e^(v-pv) + (μ-pμ)² e^(-pv)) over the last dim; a missing prior part is 0."""
    m, v, pm, pv = accumulate(mu, logvar, prior_mu, prior_logvar)
    d = m if pm is None else m - pm
    ratio = v if pv is None else v - pv
    squared = d * d if pv is None else d * d * torch.exp(-pv)
    return _reduce((exp_excess(ratio) + squared).sum(-1) / 2, reduction, mu)


def _without_last(tensors, options, reduction):
    """The shape without the last dimension for "none", else a scalar."""
    return tensors[0].shape[:-1] if reduction == NONE else ()


GAUSSIAN = ("mu", "logvar", "prior_mu", "prior_logvar")

# options: none. All tensors have one shape and one dtype, or float32 (float64 for a float64 mu) where they differ.
_gaussian_kl = Op(reference_gaussian_kl, GAUSSIAN, _without_last, differentiable=GAUSSIAN)


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
    """
    name = "gaussian_kl"
    check.pair(name, mu, logvar, check.FLOATING, ("mu", "logvar"))
    if not mu.dim():
        raise ValueError(f"{name}: expected mu with at least one dimension, got a tensor without any")
    if prior_mu is not None:
        check.pair(name, mu, prior_mu, check.FLOATING, ("mu", "prior_mu"))
    if prior_logvar is not None:
        check.pair(name, mu, prior_logvar, check.FLOATING, ("mu", "prior_logvar"))
    code = check.divergence_reduction_code(name, reduction)
    tensors = mu, logvar, prior_mu, prior_logvar
    if any(t is not None and t.dtype is not mu.dtype for t in tensors):
        dtype = accumulation_dtype(mu.dtype)
        tensors = tuple(t if t is None else t.to(dtype) for t in tensors)
    return fused(_gaussian_kl, tensors, (), code, {"reduction": reduction})


class GaussianKLLoss(LossModule, function=gaussian_kl, tensors=GAUSSIAN):
    """Module of :func:`gaussian_kl`; `forward` takes the prior's tensors, where there are any, after mu and logvar."""

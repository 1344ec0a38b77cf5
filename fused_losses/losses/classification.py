"""Losses of one class out of many: each one's reference, public function and Module side by side.

Their ops share one signature: tensors (input, target, weight), softmax over dim 1 (the only one of a 1-D input);
target holds class indices (uint8, int32, int64; the input's shape without the classes) or class probabilities (a
floating dtype, bool or uint8; the input's shape). weight is (C,) or None. The kernel refuses an index that is neither
in [0, C) nor ignored.
"""

from __future__ import annotations

import torch

from .. import _checks as check
from .._autograd import fused
from .._module import LossModule
from .._ops import NONE, Op
from ._shared import accumulate, reduce, times


def row_shape(tensors, options, reduction):
    """The input's shape without the classes for "none", else a scalar."""
    shape = tensors[0].shape
    return (shape[:1] + shape[2:] if len(shape) > 1 else ()) if reduction == NONE else ()


def is_dense(input, target):
    """Whether `target` holds class probabilities: it has the input's shape."""
    return target.shape == input.shape


def along_classes(values, dims):
    """Values (C,) shaped to broadcast against an input of `dims` dimensions."""
    return values if dims == 1 else values.reshape(-1, *(1,) * (dims - 2))


def pick(values, index, ignored, dim):
    """values[..., index, ...] over `dim`, 0 where ignored."""
    picked = values.gather(dim, torch.where(ignored, 0, index).unsqueeze(dim)).squeeze(dim)
    return torch.where(ignored, 0, picked)


def _without_ignored(x, target, ignore_index, dim):
    """The logits with 0 in ignored rows, the target as int64 and where it is ignored."""
    index = target.long()
    ignored = index == ignore_index
    return torch.where(ignored.unsqueeze(dim), 0, x), index, ignored


def log_one_minus_softmax(x, dim):
    """log(1 - softmax(x)), exact also for a class that takes all; right under derivatives.

    The largest logit's value is the log of the other classes' share; every other probability is at most 1/2.
    """
    largest = torch.arange(x.shape[dim], device=x.device).view(-1, *(1,) * (x.dim() - 1 - dim)) == x.argmax(
        dim, keepdim=True
    )
    others = x.masked_fill(largest, -torch.inf)
    shift = others.detach().amax(dim, keepdim=True)
    shift = torch.where(shift == -torch.inf, 0, shift)
    rest = torch.exp(others - shift).sum(dim, keepdim=True)
    alone = rest == 0
    log_rest = torch.where(
        alone, -torch.inf, torch.where(alone, 1, rest).log() + shift - x.logsumexp(dim, keepdim=True)
    )
    below = torch.where(largest, 0, x.softmax(dim))
    return torch.where(largest, log_rest, torch.log1p(-below))


def softmax_focal_terms(x, dim, gamma, share=None):
    """share_c (1-p_c)^gamma (-log p_c) for every class c along `dim`; share is 1 if not given."""
    cost = -x.log_softmax(dim)
    cost = cost if share is None else times(share, cost)
    return cost if gamma == 0 else cost * torch.exp(gamma * log_one_minus_softmax(x, dim))


def _target(name, input, target, ignore_index):
    """Checks of input, target and ignore_index."""
    check.tensor(name, "input", input)
    check.tensor(name, "target", target, check.DENSE_OR_INDEX)
    if input.device != target.device:
        check.same_device(name, "target", target, input)
    check.integer(name, "ignore_index", ignore_index)
    shape = input.shape
    if not shape:
        raise ValueError(f"{name}: expected input with at least one dimension, got a tensor without any")
    if target.shape == shape:
        check.tensor(name, "target of class probabilities", target, check.DENSE)
        if ignore_index >= 0:
            raise ValueError(f"{name}: expected ignore_index < 0 with class probabilities, got {ignore_index}")
        return
    rows = shape[:1] + shape[2:] if len(shape) > 1 else shape[1:]
    if target.shape != rows:
        raise ValueError(f"{name}: expected target of shape {tuple(rows)} or {tuple(shape)}, got {tuple(target.shape)}")
    check.tensor(name, "target of class indices", target, check.CLASS_INDEX)


def _per_class(name, argument, value, input):
    """`value` is a tensor of one number for each class."""
    check.shaped(name, argument, value, (input.shape[min(1, input.dim() - 1)],), input)


def reference_cross_entropy(input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    """-Σ_c y_c w_c log p_c, y smoothed to y (1-e) + e/C; for indices the mean divides by the sum of w[target]."""
    (x,) = accumulate(input)
    dim = min(1, x.dim() - 1)
    w = None if weight is None else along_classes(weight.to(x.dtype), x.dim())
    if is_dense(input, target):
        y = target.to(x.dtype) * (1 - label_smoothing) + label_smoothing / x.shape[dim]
        return reduce(-times(y if w is None else y * w, x.log_softmax(dim)).sum(dim), reduction)
    x, index, ignored = _without_ignored(x, target, ignore_index, dim)
    losses = -x.log_softmax(dim)
    losses = losses if w is None else times(w, losses)
    loss = pick(losses, index, ignored, dim)
    if label_smoothing:
        spread = losses.sum(dim) / x.shape[dim]
        loss = torch.where(ignored, 0, (1 - label_smoothing) * loss + label_smoothing * spread)
    counted = (~ignored).sum() if w is None else pick(w.expand_as(x), index, ignored, dim).sum()
    return reduce(loss, reduction, counted)


# options: ignore_index, label_smoothing.
_cross_entropy = Op(reference_cross_entropy, ("input", "target", "weight"), row_shape)


def cross_entropy(input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    """Cross-entropy between logits and classes.

    .. math:: -\\sum_c y_c w_c \\log p_c, \\quad p = \\mathrm{softmax}(x)

    Args:
        input: logits x, (C,), (N, C) or (N, C, d1, ...); float32, float64, float16 or bfloat16.
        target: class indices, the input's shape without C (uint8, int32 or int64); or class probabilities y, the
            input's shape (any floating dtype, bool or uint8).
        weight: w, one for each class, (C,).
        ignore_index: rows with this target give loss 0 and gradient 0 and leave the mean; indices only.
        reduction: "none", "mean" or "sum". The mean divides by the sum of the weights of the rows' targets, with
            probabilities by the number of rows.
        label_smoothing: e in [0, 1]; y becomes y (1-e) + e/C.

    Returns:
        A scalar, or the input's shape without C with "none"; float64 for a float64 input, else float32.

    A logit of -inf is a class that cannot be: it counts 0 where its probability y is 0, infinity elsewhere. NaN
    propagates; everything ignored gives a mean of NaN with gradient 0, as does the mean of nothing.
    Raises ValueError or TypeError on a wrong shape, dtype, device, reduction or option; IndexError or RuntimeError on
    the CPU, a device assertion on CUDA, on a class index outside [0, C) that is not ignored.
    Same as :func:`torch.nn.functional.cross_entropy`.
    """
    name = "cross_entropy"
    _target(name, input, target, ignore_index)
    code = check.reduction_code(name, reduction)
    check.number(name, "label_smoothing", label_smoothing, 0, 1)
    if weight is not None:
        _per_class(name, "weight", weight, input)
    keywords = {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": label_smoothing}
    return fused(_cross_entropy, (input, target, weight), (ignore_index, label_smoothing), code, keywords)


class CrossEntropyLoss(LossModule, function=cross_entropy):
    """Module of :func:`cross_entropy`; `weight` is a buffer."""


def reference_softmax_focal_loss(
    input, target, alpha=None, gamma=2.0, ignore_index=-100, reduction="mean", *, label_smoothing=0.0
):
    """Σ_c y_c α_c (1-p_c)^γ (-log p_c), y smoothed to y (1-e) + e/C; the mean over the rows not ignored."""
    (x,) = accumulate(input)
    dim = min(1, x.dim() - 1)
    a = along_classes(alpha.to(x.dtype), x.dim()) if isinstance(alpha, torch.Tensor) else 1 if alpha is None else alpha
    if is_dense(input, target):
        y = target.to(x.dtype) * (1 - label_smoothing) + label_smoothing / x.shape[dim]
        return reduce(softmax_focal_terms(x, dim, gamma, y * a).sum(dim), reduction)
    x, index, ignored = _without_ignored(x, target, ignore_index, dim)
    y = torch.zeros_like(x).scatter(dim, torch.where(ignored, 0, index).unsqueeze(dim), 1.0)
    y = y * (1 - label_smoothing) + label_smoothing / x.shape[dim]
    loss = torch.where(ignored, 0, softmax_focal_terms(x, dim, gamma, y * a).sum(dim))
    return reduce(loss, reduction, (~ignored).sum())


# tensors: a (C,) alpha is the weight. options: ignore_index, label_smoothing, gamma, alpha (1 for None or a tensor).
_softmax_focal_loss = Op(reference_softmax_focal_loss, ("input", "target", "alpha"), row_shape)


def softmax_focal_loss(
    input, target, alpha=None, gamma=2.0, ignore_index=-100, reduction="mean", *, label_smoothing=0.0
):
    """Focal loss of one class out of many.

    .. math:: \\sum_c y_c \\, \\alpha_c \\, (1-p_c)^\\gamma \\, (-\\log p_c), \\quad p = \\mathrm{softmax}(x)

    Args:
        input: logits x, (C,), (N, C) or (N, C, d1, ...); float32, float64, float16 or bfloat16.
        target: class indices, the input's shape without C (uint8, int32 or int64); or class probabilities y, the
            input's shape (any floating dtype, bool or uint8).
        alpha: None, a factor >= 0 for all classes, or a tensor (C,) with one for each class.
        gamma: focusing exponent, not negative; 0 gives the cross-entropy times alpha.
        ignore_index: rows with this target give loss 0 and gradient 0 and leave the mean; indices only.
        reduction: "none", "mean" (over the rows not ignored, whatever their alpha) or "sum".
        label_smoothing: e in [0, 1]; y becomes y (1-e) + e/C.

    Returns:
        A scalar, or the input's shape without C with "none"; float64 for a float64 input, else float32.

    Loss and gradient are finite for any finite logits and any gamma, also below 1; NaN propagates; everything ignored
    gives a mean of NaN with gradient 0.
    Raises ValueError or TypeError on a wrong shape, dtype, device, reduction or option; IndexError or RuntimeError on
    the CPU, a device assertion on CUDA, on a class index outside [0, C) that is not ignored.
    Lin et al. (2017), "Focal Loss for Dense Object Detection", with softmax for sigmoid.
    """
    name = "softmax_focal_loss"
    _target(name, input, target, ignore_index)
    code = check.reduction_code(name, reduction)
    check.number(name, "gamma", gamma, 0)
    check.number(name, "label_smoothing", label_smoothing, 0, 1)
    keywords = {
        "gamma": gamma, "ignore_index": ignore_index, "reduction": reduction, "label_smoothing": label_smoothing,
    }  # fmt: skip
    factor, weight = 1.0, None
    if isinstance(alpha, torch.Tensor):
        _per_class(name, "alpha", alpha, input)
        weight = alpha
    elif alpha is not None:
        check.number(name, "alpha", alpha, 0)
        factor = keywords["alpha"] = alpha
    options = (ignore_index, label_smoothing, gamma, factor)
    return fused(_softmax_focal_loss, (input, target, weight), options, code, keywords)


class SoftmaxFocalLoss(LossModule, function=softmax_focal_loss):
    """Module of :func:`softmax_focal_loss`; a tensor `alpha` is a buffer."""

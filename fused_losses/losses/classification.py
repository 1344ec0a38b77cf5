"""Losses of one class out of many: formulas in plain PyTorch, which `loss` fuses, and Modules.

The softmax is over dim 1 (the only one of a 1-D input). A target of the input's shape holds class probabilities, one
without the classes class indices.
"""

from __future__ import annotations

import torch

from .. import _checks as check
from .._loss import loss
from .._module import LossModule
from .._op import NONE
from .._options import IgnoreIndex, Number
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


def smoothed(y, label_smoothing, dim):
    """y (1-e) + e/C for every class; none where there are no classes."""
    return y * (1 - label_smoothing) + label_smoothing / max(y.shape[dim], 1)


def pick(values, index, ignored, dim):
    """values[..., index, ...] over `dim`, 0 where ignored, also where there are no classes."""
    if not values.shape[dim]:
        values, index = values.sum(dim, keepdim=True), index + 1
    picked = values.gather(dim, torch.where(ignored, 0, index).unsqueeze(dim)).squeeze(dim)
    return torch.where(ignored, 0, picked)


def _without_ignored(x, target, ignore_index, dim):
    """The logits with 0 in ignored rows, the target as int64 and where it is ignored."""
    index = target.long()
    ignored = torch.zeros_like(index, dtype=torch.bool) if ignore_index is None else index == ignore_index
    return torch.where(ignored.unsqueeze(dim), 0, x), index, ignored


def log_one_minus_softmax(x, log_p, dim):
    """log(1 - softmax(x)) from x and log softmax(x), exact also for a class that takes all; right under derivatives.

    The largest logit's value is the log of the other classes' share; every other probability is at most 1/2.
    """
    largest = torch.zeros_like(x, dtype=torch.bool).scatter(dim, x.argmax(dim, keepdim=True), 1)
    others = x.masked_fill(largest, -torch.inf)
    shift = others.detach().amax(dim, keepdim=True)
    shift = torch.where(shift == -torch.inf, 0, shift)
    rest = torch.exp(others - shift).sum(dim, keepdim=True)
    alone = rest == 0
    log_rest = torch.where(alone, -torch.inf, torch.where(alone, 1, rest).log() + (shift - x) + log_p)
    below = torch.where(largest, 0, x.softmax(dim))
    return torch.where(largest, log_rest, torch.log1p(-below))


def softmax_focal_terms(x, dim, gamma, share=None):
    """share_c (1-p_c)^gamma (-log p_c) for every class c along `dim`; share is 1 if not given."""
    log_p = x.log_softmax(dim)
    cost = -log_p if share is None else times(share, -log_p)
    return cost if gamma == 0 or x.shape[dim] == 0 else cost * torch.exp(gamma * log_one_minus_softmax(x, log_p, dim))


def check_classes(name, input, target, ignore_index):
    """Class indices or probabilities of each position of the input; no index of a class is ignored with the latter."""
    check.tensor(name, "target", target, check.DENSE)
    check.same_device(name, "target", target, input)
    shape = input.shape
    if not shape:
        raise ValueError(f"{name}: expected input with at least one dimension, got a tensor without any")
    if target.shape == shape:
        if ignore_index is not None and ignore_index >= 0:
            raise ValueError(f"{name}: expected ignore_index < 0 with class probabilities, got {ignore_index}")
        return
    rows = shape[:1] + shape[2:] if len(shape) > 1 else shape[1:]
    if target.shape != rows:
        raise ValueError(f"{name}: expected target of shape {tuple(rows)} or {tuple(shape)}, got {tuple(target.shape)}")
    check.tensor(name, "target of class indices", target, check.CLASS_INDEX)


def check_class_weight(name, argument, value, input):
    """One number for each class."""
    check.shaped(name, argument, value, (input.shape[min(1, input.dim() - 1)],), input)


def check_cross_entropy(name, input, target, weight, ignore_index):
    """As `check_classes`, with a weight of each class or None."""
    check_classes(name, input, target, ignore_index)
    if weight is not None:
        check_class_weight(name, "weight", weight, input)


def class_losses(x, target, weight, ignore_index, label_smoothing):
    """Cross-entropy of each row of logits, what its mean divides by (None: the rows) and which rows are ignored (None:
    no row can be)."""
    dim = min(1, x.dim() - 1)
    w = None if weight is None else along_classes(weight.to(x.dtype), x.dim())
    if is_dense(x, target):
        y = smoothed(target.to(x.dtype), label_smoothing, dim)
        return -times(y if w is None else y * w, x.log_softmax(dim)).sum(dim), None, None
    x, index, ignored = _without_ignored(x, target, ignore_index, dim)
    losses = -x.log_softmax(dim)
    losses = losses if w is None else times(w, losses)
    loss = pick(losses, index, ignored, dim)
    if label_smoothing:
        spread = losses.sum(dim) / max(x.shape[dim], 1)
        loss = torch.where(ignored, 0, (1 - label_smoothing) * loss + label_smoothing * spread)
    counted = (~ignored).sum() if w is None else pick(w.expand_as(x), index, ignored, dim).sum()
    return loss, counted, ignored


@loss(
    shape=row_shape,
    check=check_cross_entropy,
    options={"ignore_index": IgnoreIndex(classes=True), "label_smoothing": Number(low=0, high=1)},
)
def cross_entropy(input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    """Cross-entropy between logits and classes.

    .. math:: -\\sum_c y_c w_c \\log p_c, \\quad p = \\mathrm{softmax}(x)

    Args:
        input: logits x, (C,), (N, C) or (N, C, d1, ...); float32, float64, float16 or bfloat16.
        target: class indices, the input's shape without C (uint8, int32 or int64); or class probabilities y, the
            input's shape (floating, bool, uint8, int32 or int64).
        weight: w, one for each class, (C,).
        ignore_index: rows with this target give loss 0 and gradient 0 and leave the mean; indices only; None: no row.
        reduction: "none", "mean" or "sum". The mean divides by the sum of the weights of the rows' targets, with
            probabilities by the number of rows.
        label_smoothing: e in [0, 1]; y becomes y (1-e) + e/C.

    Returns:
        A scalar, or the input's shape without C with "none"; float64 for a float64 input, else float32.

    A logit of -inf is a class that cannot be: it counts 0 where its probability y is 0, infinity elsewhere. NaN
    propagates; everything ignored gives a mean of NaN with gradient 0, as does the mean of nothing.
    Raises ValueError or TypeError on a wrong shape, dtype, device, reduction or option, IndexError on a class index
    outside [0, C) that is not ignored, which is a device assertion on CUDA.
    Same as :func:`torch.nn.functional.cross_entropy`.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> F.cross_entropy(logits, torch.tensor([0, -100]))  # the second row is ignored
        tensor(0.2395)
    """
    (x,) = accumulate(input)
    losses, counted, _ = class_losses(x, target, weight, ignore_index, label_smoothing)
    return reduce(losses, reduction, counted)


class CrossEntropyLoss(LossModule, function=cross_entropy):
    """Module of :func:`cross_entropy`; `weight` is a buffer.

    Example:
        >>> criterion = fused_losses.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 1.0]), label_smoothing=0.1)
        >>> criterion(torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 1]))
        tensor(0.5268)
    """


def check_softmax_focal(name, input, target, alpha, ignore_index):
    """As `check_classes`; alpha may be a tensor of one factor for each class."""
    check_classes(name, input, target, ignore_index)
    if isinstance(alpha, torch.Tensor):
        check_class_weight(name, "alpha", alpha, input)


def softmax_focal_operands(input, target, alpha):
    """The op's tensors: an alpha for each class is its weight."""
    return input, target, alpha if isinstance(alpha, torch.Tensor) else None


@loss(
    shape=row_shape,
    check=check_softmax_focal,
    operands=softmax_focal_operands,
    tensors=("input", "target", "alpha"),
    options={
        "alpha": Number(low=0, none=1, or_tensor=True),
        "gamma": Number(low=0),
        "ignore_index": IgnoreIndex(classes=True),
        "label_smoothing": Number(low=0, high=1),
    },
)
def softmax_focal_loss(
    input, target, alpha=None, gamma=2.0, ignore_index=-100, reduction="mean", *, label_smoothing=0.0
):
    """Focal loss of one class out of many.

    .. math:: \\sum_c y_c \\, \\alpha_c \\, (1-p_c)^\\gamma \\, (-\\log p_c), \\quad p = \\mathrm{softmax}(x)

    Args:
        input: logits x, (C,), (N, C) or (N, C, d1, ...); float32, float64, float16 or bfloat16.
        target: class indices, the input's shape without C (uint8, int32 or int64); or class probabilities y, the
            input's shape (floating, bool, uint8, int32 or int64).
        alpha: None, a factor >= 0 for all classes, or a tensor (C,) with one for each class.
        gamma: focusing exponent, not negative; 0 gives the cross-entropy times alpha.
        ignore_index: rows with this target give loss 0 and gradient 0 and leave the mean; indices only; None: no row.
        reduction: "none", "mean" (over the rows not ignored, whatever their alpha) or "sum".
        label_smoothing: e in [0, 1]; y becomes y (1-e) + e/C.

    Returns:
        A scalar, or the input's shape without C with "none"; float64 for a float64 input, else float32.

    Loss and gradient are finite for any finite logits and any gamma, also below 1; NaN propagates; everything ignored
    gives a mean of NaN with gradient 0.
    Raises ValueError or TypeError on a wrong shape, dtype, device, reduction or option, IndexError on a class index
    outside [0, C) that is not ignored, which is a device assertion on CUDA.
    Lin et al. (2017), "Focal Loss for Dense Object Detection", with softmax for sigmoid.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> F.softmax_focal_loss(logits, torch.tensor([0, 2]), reduction="none")
        tensor([0.0109, 0.9635])
    """
    (x,) = accumulate(input)
    dim = min(1, x.dim() - 1)
    a = along_classes(alpha.to(x.dtype), x.dim()) if isinstance(alpha, torch.Tensor) else 1 if alpha is None else alpha
    if is_dense(input, target):
        y = smoothed(target.to(x.dtype), label_smoothing, dim)
        return reduce(softmax_focal_terms(x, dim, gamma, y * a).sum(dim), reduction)
    x, index, ignored = _without_ignored(x, target, ignore_index, dim)
    if not x.shape[dim]:
        return reduce(pick(x, index, ignored, dim), reduction, (~ignored).sum())
    y = torch.zeros_like(x).scatter(dim, torch.where(ignored, 0, index).unsqueeze(dim), 1.0)
    y = smoothed(y, label_smoothing, dim)
    loss = torch.where(ignored, 0, softmax_focal_terms(x, dim, gamma, y * a).sum(dim))
    return reduce(loss, reduction, (~ignored).sum())


class SoftmaxFocalLoss(LossModule, function=softmax_focal_loss):
    """Module of :func:`softmax_focal_loss`; a tensor `alpha` is a buffer.

    Example:
        >>> criterion = fused_losses.SoftmaxFocalLoss(alpha=torch.tensor([0.2, 0.2, 0.6]))
        >>> criterion(torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 2]))
        tensor(0.2901)
    """

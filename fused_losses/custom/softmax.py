"""`custom.softmax`: a loss of the target's class, of its log-probability and probability."""

from __future__ import annotations

from collections.abc import Callable

from .._options import IgnoreIndex, Number
from ..losses._shared import accumulate, reduce, times
from ..losses.classification import (
    _without_ignored,
    along_classes,
    check_cross_entropy,
    is_dense,
    pick,
    row_shape,
    smoothed,
)
from .formula import Formula
from .functors import softmax_functor
from .loss import CustomLoss, Signature, ensure, keyword, option_kinds, positional, publish, with_signature


def softmax(function: Callable | None = None, *, name: str | None = None) -> Callable:
    """Makes a fused loss of a function of log p and p, the softmax's of one class, written in plain PyTorch.

    The loss of a position is Σ_c y_c w_c f(log p_c, p_c) over the classes of its target y: one class index, or class
    probabilities. It is called as :func:`fused_losses.functional.cross_entropy`: (input, target, weight=None,
    ignore_index=-100, reduction="mean", label_smoothing=0.0) and the function's options by keyword; the mean over class
    indices divides by the sum of the weights of their classes. f = -log p is cross-entropy.

    As :func:`elementwise` in all else.
    """
    if function is None:
        return lambda f: softmax(f, name=name)
    signature = Signature(name, function, tensors=2)
    name = signature.name
    options, tensors = list(signature.options), signature.tensors
    formula = Formula(name, function, tensors, signature.options)

    def plain(input, target, weight=None, *, reduction, ignore_index, label_smoothing, **chosen):
        dim = min(1, input.dim() - 1)
        x, w = accumulate(input, weight)
        w = None if w is None else along_classes(w, x.dim())
        if is_dense(input, target):
            y = smoothed(target.to(x.dtype), label_smoothing, dim)
            return reduce(_weighted(y if w is None else y * w, x.log_softmax(dim), chosen).sum(dim), reduction)
        x, index, ignored = _without_ignored(x, target, ignore_index, dim)
        log_p = x.log_softmax(dim)
        w_target = None if w is None else pick(w.expand_as(x), index, ignored, dim)
        # Of the target's class alone: of others the formula may have no slope; nor may it at log p = 0.
        loss = _weighted(w_target, pick(log_p, index, ignored, dim).masked_fill(ignored, -1), chosen)
        loss = loss.masked_fill(ignored, 0)
        if label_smoothing:
            spread = _weighted(w, log_p, chosen).sum(dim) / max(x.shape[dim], 1)
            loss = (1 - label_smoothing) * loss + label_smoothing * spread.masked_fill(ignored, 0)
        return reduce(loss, reduction, (~ignored).sum() if w is None else w_target.sum())

    def _weighted(w, log_p, chosen):
        losses = formula(log_p, log_p.exp(), **chosen)
        return losses if w is None else times(w, losses)

    functor = softmax_functor(formula.with_slope, tensors, options)
    custom = CustomLoss(
        name, functor, plain, slots=("input", "target", "weight"),
        options=[*options, "ignore_index", "label_smoothing"], shape=row_shape,
    )  # fmt: skip

    def operands(input, target, weight):
        ensure(custom, input)
        return input, target, weight

    parameters = [positional("input"), positional("target")]
    parameters += [keyword(o, d) for o, d in signature.options.items()]
    parameters += [keyword("weight", None), keyword("ignore_index", -100), keyword("reduction", "mean")]
    parameters += [keyword("label_smoothing", 0.0)]
    kinds = option_kinds(signature) | {
        "ignore_index": IgnoreIndex(classes=True), "label_smoothing": Number(low=0, high=1),
    }  # fmt: skip
    check = with_signature(
        lambda *values: check_cross_entropy(*values), "_fl_name", "input", "target", "weight", "ignore_index"
    )
    operands = with_signature(operands, "input", "target", "weight")
    return publish(custom, function, parameters, kinds, check, operands, ("input", "target"))

"""Classes of a linear layer spread over processes: every process has all rows, and its part of the weight.

The processes merge two numbers of each row, the log sums and the logit of its class, and add up the gradients of the
rows. Each gets the loss and the whole gradients of what it holds: these are not to be averaged.
"""

from __future__ import annotations

import torch

from .._op import MEAN, NONE, Op, accumulation_dtype, linear_log_sums
from .._options import NO_CLASS
from ._processes import Processes, check_even, gathered_parts, log_sums, processes, reduced


def whole_layer(name: str, group, weight, bias) -> tuple:
    """Weight and bias of all classes, differentiable; without a group themselves."""
    if group is None:
        return weight, bias
    among = processes(name, group)
    check_layer(weight, among)
    return tuple(t if t is None else gathered_parts(t, among) for t in (weight, bias))


def check_classes_of_all(name, group, dense, weight, label_smoothing):
    """What a loss of spread classes does not take."""
    if group is None:
        return
    for given, argument in ((dense, "class indices as target"), (weight is not None, "weight to be None"),
                            (label_smoothing, "label_smoothing to be 0")):  # fmt: skip
        if given:
            raise ValueError(f"{name}: expected {argument} with a group, got another")


def check_layer(weight: torch.Tensor, among: Processes) -> None:
    """Every process has as many classes, and some; all raise or none."""
    check_even("linear_weight", weight, among)
    if not weight.shape[0]:
        raise ValueError(
            f"{among.loss}: expected linear_weight of at least one class with a group, got {tuple(weight.shape)}"
        )


class _Target:
    """The class of each row as this process sees it: `own` among its own where `here`; counted: not ignored."""

    def __init__(self, target: torch.Tensor, ignored: float, classes: int, among: Processes):
        index = target.reshape(-1).long()
        ignoring = ignored != NO_CLASS
        self.counted = index != int(ignored) if ignoring else torch.ones_like(index, dtype=torch.bool)
        self.own = index - among.first(classes)
        self.here = self.counted & (self.own >= 0) & (self.own < classes)
        self.classes, self.shape = classes, target.shape
        bad = self.counted & ((index < 0) | (index >= among.size * classes))
        if torch.compiler.is_compiling() or not target.is_cpu:
            torch._assert_async(~bad.any(), f"{among.loss}: expected class index in [0, {among.size * classes})")
        elif bad.any():
            at, otherwise = int(bad.nonzero()[0]), f" or ignore_index {int(ignored)}" if ignoring else ""
            raise IndexError(
                f"{among.loss}: expected class index in [0, {among.size * classes}){otherwise}, "
                f"got {int(index[at])} at flat index {at}"
            )

    def number(self) -> torch.Tensor:
        """Of the rows that count."""
        return self.counted.sum()

    def with_elsewhere(self, ignored: int) -> torch.Tensor:
        """Class indices, the one after this process's last for a class of another process."""
        index = torch.where(self.here, self.own, self.classes)
        return torch.where(self.counted, index, ignored).reshape(self.shape)


def _rest(own: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """The log sum of the other processes' logits, from one's own and that of all."""
    return whole + torch.log1p(-(own - whole).clamp(max=0).exp())


def across_classes(op: Op, group) -> Op:
    """The op of a linear layer whose classes are spread over a group's processes, as many each, in their order."""
    among = processes(op.name, group)

    def reference(**arguments):
        layer = whole_layer(op.name, group, arguments["linear_weight"], arguments.get("linear_bias"))
        return op.reference(**{**arguments, **dict(zip(("linear_weight", "linear_bias"), layer))})

    def read(target, weight, options):
        named = dict(zip(op.options, options))
        return named, _Target(target, named["ignore_index"], weight.shape[0], among)

    def forward(input, weight, target, bias, class_weight, elsewhere, options, reduction, gradients):
        check_layer(weight, among)
        named, classes = read(target, weight, options)
        rows, index = input.reshape(target.numel(), input.shape[-1]), classes.own.clamp(0, weight.shape[0] - 1)
        own, logit = linear_log_sums(rows, weight, index, bias, named["softcap"]).unbind(1)
        whole = log_sums(own, among)
        losses = whole - reduced(torch.where(classes.here, logit, 0), among)
        if named["z_loss"]:
            losses = losses + named["z_loss"] * whole.square()
        losses = torch.where(classes.counted, losses, 0)
        if reduction == NONE:
            loss = losses.reshape(target.shape)
        else:
            loss = losses.double().sum()
            loss = (loss / classes.number() if reduction == MEAN else loss).to(losses.dtype)
        own, whole = own.contiguous(), whole.contiguous()
        if not gradients:
            return [loss, own, whole]
        arguments = own, whole, input, weight, target, bias, class_weight, elsewhere, options, reduction, gradients
        return [loss, own, whole, *backward(loss.new_ones(()), *arguments)]

    def backward(grad_output, own, whole, input, weight, target, bias, class_weight, elsewhere, options, reduction,
                 gradients):  # fmt: skip
        named, classes = read(target, weight, options)
        if reduction == MEAN:
            grad_output = grad_output / classes.number()
        if reduction != NONE:
            grad_output = torch.where(classes.counted, grad_output, 0)  # 0 where nothing counts, not NaN
        placed = [-100.0 if name == "ignore_index" else value for name, value in named.items()]
        found = op.backward(
            grad_output.contiguous(), input, weight, classes.with_elsewhere(-100), bias, None, _rest(own, whole),
            placed, NONE, gradients,
        )  # fmt: skip
        if not gradients & 1:
            return found
        of_rows, *others = found
        return [reduced(of_rows.to(accumulation_dtype(input.dtype)), among).to(input.dtype), *others]

    return Op(
        op.name, reference, forward, backward, tensors=op.tensors, differentiable=op.differentiable,
        options=op.options, losses=1, saved=2,
    )  # fmt: skip

"""`custom.elementwise`: a loss of one element of up to four tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .. import _checks
from .._options import IgnoreIndex
from ..losses._shared import accumulate, elementwise_shape, readable, reduce_weighted, without
from .formula import Formula
from .functors import elementwise_functor
from .loss import CustomLoss, Signature, ensure, keyword, option_kinds, positional, publish, with_signature


def elementwise(
    function: Callable | None = None, *, name: str | None = None, differentiable: Sequence[str] | None = None,
    ignores: bool = False,
) -> Callable:  # fmt: skip
    """Makes a fused loss of a function of one to four tensors of one shape, written in plain PyTorch.

    The function computes the loss of each element, pointwise; its options are keyword-only numbers, its branches
    `torch.where`. The loss takes the function's arguments and, by keyword, `reduction` ("none", "mean" or "sum"),
    `weight` (broadcast to the first tensor; the mean divides by the elements that count) and, with `ignores`,
    `ignore_index`: the value of the second tensor whose elements count for nothing.

    Args:
        name: of the loss in messages; the function's.
        differentiable: the tensors whose gradients are fused, all by default; others take plain PyTorch.

    The first tensor is floating; any of the others may be bool or an integer, read as numbers. The result has the first
    tensor's shape with "none", else it is a scalar; float64 for float64, else float32. Derivatives are PyTorch's own,
    of log(sigmoid(x)), log(1 + exp(x)) and the like after they are rewritten so that they do not overflow.

    The result's `reference` is the function as written, `Module` its nn.Module, `source` the generated C++. It is
    compiled at the first call, or found where it was compiled before; without a compiler it is plain PyTorch.
    Raises ValueError or TypeError, in one sentence, where the function is no pointwise formula.
    """
    if function is None:
        return lambda f: elementwise(f, name=name, differentiable=differentiable, ignores=ignores)
    signature = Signature(name, function)
    name = signature.name
    tensors, options = signature.tensors, list(signature.options)
    wanted = list(tensors if differentiable is None else differentiable)
    if not set(wanted) <= set(tensors):
        raise ValueError(f"{name}: expected differentiable among {', '.join(tensors)}, got {', '.join(wanted)}")
    if ignores and len(tensors) < 2:
        raise ValueError(f"{name}: expected a second tensor whose elements are ignored, got {len(tensors)} tensor")

    formula = Formula(name, function, tensors, signature.options)

    def terms(dtype):
        value = formula.read(dtype)
        return value, dict(zip(wanted, formula.slopes(value, wanted)))

    def plain(**given):
        *values, weight = accumulate(*(given[t] for t in tensors), given.get("weight"))
        ignored, index = None, given.get("ignore_index")
        if index is not None:
            ignored = values[1] == index
            *values, weight = without(ignored, *values, weight)
        loss = formula(*values, **given)
        return reduce_weighted(loss, weight, given["reduction"], ignored)

    functor = elementwise_functor(terms, tensors, wanted, options, ignores)
    second, third, fourth = (tensors[1:] + [None] * 3)[:3]
    numbers = [*options, *(["ignore_index"] * ignores)]
    custom = CustomLoss(
        name, functor, plain, slots=(tensors[0], second, "weight", None, third, fourth), options=numbers,
        shape=elementwise_shape,
    )  # fmt: skip

    def check(op_name, first, *others):
        *others, weight = others
        for argument, value in zip(tensors[1:], others):
            _checks.alike(op_name, argument, value, first)
        if weight is not None:
            _checks.broadcastable(op_name, "weight", weight, first)

    def operands(first, *others):
        ensure(custom, first)
        *others, weight = others
        a, b, c = (others + [None] * 3)[:3]
        return first, a, None if weight is None else readable(weight, first), None, b, c

    parameters = [positional(t) for t in tensors] + [keyword(o, d) for o, d in signature.options.items()]
    parameters += [keyword("reduction", "mean"), keyword("weight", None)]
    parameters += [keyword("ignore_index", None)] * ignores
    kinds = option_kinds(signature) | ({"ignore_index": IgnoreIndex()} if ignores else {})
    return publish(
        custom, function, parameters, kinds, with_signature(check, "_fl_name", *tensors, "weight"),
        with_signature(operands, *tensors, "weight"), tensors,
    )  # fmt: skip

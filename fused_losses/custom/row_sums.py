"""`custom.row_sums`: a loss of each row, a function of the sum of its elements' terms."""

from __future__ import annotations

from collections.abc import Callable

from .. import _checks
from ..losses._shared import accumulate, reduce, rows_shape
from .formula import Formula
from .functors import row_sums_functor
from .loss import (
    CustomLoss,
    Signature,
    check_number_of_options,
    ensure,
    keyword,
    name_of,
    number_of_tensors,
    option_kinds,
    positional,
    publish,
    with_signature,
)


def row_sums(function: Callable | None = None, *, term: Callable, name: str | None = None) -> Callable:
    """Makes a fused loss of rows: `function` of the sum over each row of `term` of its elements, in plain PyTorch.

    `term(a, b, ...)` takes one to four tensors (B, ...) of one shape; `function(total)` or `function(total, target)` a
    row's sum over all but the first dimension and, if it has a second argument, the number that goes with the row
    in `target` (B,). Both may have keyword-only options. The loss is called with the tensors of `term` and the target,
    options and `reduction` by keyword; "none" has shape (B,). Gradients to all tensors of `term` are fused.

    As :func:`elementwise` in all else.
    """
    if function is None:
        return lambda f: row_sums(f, term=term, name=name)
    name = name_of(function, name)
    of_term = Signature(f"{name}: term", term)
    labelled = number_of_tensors(function, name) > 1
    of_sum = Signature(name, function, tensors=2 if labelled else 1)
    tensors, labels = of_term.tensors, of_sum.tensors[1:]
    for option in of_term.options.keys() & of_sum.options.keys():
        a, b = of_term.options[option], of_sum.options[option]
        if a != b:
            raise ValueError(f"{name}: expected one default of {option}, got {a} in the term and {b} in the function")
    defaults = {**of_term.options, **of_sum.options}
    check_number_of_options(name, defaults)
    _check_names(name, tensors, labels, defaults)

    one = Formula(name, term, tensors, of_term.options)
    row = Formula(name, function, of_sum.tensors, of_sum.options)

    def formulas(dtype):
        value, loss = one.read(dtype), row.read(dtype)
        return value, one.slopes(value, tensors), loss, row.slopes(loss, of_sum.tensors[:1])[0]

    def plain(reduction, **given):
        values = accumulate(*(given[t] for t in [*tensors, *labels]))
        terms = one(*values[: len(tensors)], **given)
        total = terms.flatten(1).sum(1) if terms.dim() > 1 else terms
        return reduce(row(total, *values[len(tensors) :], **given), reduction)

    functor = row_sums_functor(formulas, tensors, of_sum.tensors, list(defaults))
    slots = (*(tensors + [None] * 3)[:4], labels[0] if labels else None)
    custom = CustomLoss(name, functor, plain, slots=slots, options=list(defaults), shape=rows_shape)

    def check(op_name, first, *others):
        if first.dim() < 1:
            raise ValueError(f"{op_name}: expected {tensors[0]} of shape (B, ...), got a tensor without dimensions")
        for argument, value in zip(tensors[1:], others):
            _checks.alike(op_name, argument, value, first, _checks.FLOATING)
        for argument, value in zip(labels, others[len(tensors) - 1 :]):
            _checks.shaped(op_name, argument, value, first.shape[:1], first)

    def operands(first, *others):
        ensure(custom, first)
        rest = (*others[: len(tensors) - 1], *(None,) * (4 - len(tensors)))
        return first, *rest, others[-1] if labels else None

    parameters = [positional(t) for t in [*tensors, *labels]] + [keyword(o, d) for o, d in defaults.items()]
    parameters += [keyword("reduction", "mean")]
    kinds = option_kinds(of_term) | option_kinds(of_sum)
    return publish(
        custom, function, parameters, kinds, with_signature(check, "_fl_name", *tensors, *labels),
        with_signature(operands, *tensors, *labels), [*tensors, *labels],
    )  # fmt: skip


def _check_names(name: str, tensors: list[str], labels: list[str], options: dict[str, float]) -> None:
    """They are arguments of one loss."""
    for label in labels:
        if label in tensors or label in options:
            kind = "a tensor of the term" if label in tensors else "an option"
            raise ValueError(f"{name}: expected a target with a name of its own, got {label}, {kind}")
    for option in options:
        if option in tensors:
            raise ValueError(f"{name}: expected options with names of their own, got {option}, a tensor of the term")

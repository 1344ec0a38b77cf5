"""`custom.overlap`: a loss of the region of each class, of its sums I, P and G and the number of its positions."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import torch

from .._op import NONE
from ..losses.overlap import (
    DICE_OPTIONS,
    check_regions,
    read_regions,
    reduce_regions,
    region_operands,
    region_sums,
    sums_shape,
)
from .formula import Formula
from .functors import overlap_functor
from .loss import (
    CustomLoss,
    Signature,
    ensure,
    keyword,
    number_of_tensors,
    option_kinds,
    positional,
    publish,
    with_signature,
)

DEFAULTS = {"activation": "sigmoid", "squared": False, "batch": False, "include_background": True, "ignore_index": None}


def overlap(function: Callable | None = None, *, name: str | None = None) -> Callable:
    """Makes a fused loss of a function of the sums of each class, written in plain PyTorch.

    The function takes I = Σ p g, P = Σ p, G = Σ g (squares with `squared`) of a class in a sample, or with `batch`
    in all of them, and, as a fourth argument if it has one, the number of positions; it returns the loss of the class.
    The loss is called as :func:`fused_losses.functional.dice_loss`: (input, target) and by keyword activation, squared,
    batch, include_background, ignore_index, weight, reduction and the function's options; "none" has the shape (B, C'),
    or (C',) with `batch`. The sums are float64. A class of which everything is ignored has loss 0; a function of the
    number of positions takes no ignore_index.

    As :func:`elementwise` in all else.
    """
    if function is None:
        return lambda f: overlap(f, name=name)
    takes = 4 if number_of_tensors(function, name) == 4 else 3
    signature = Signature(name, function, tensors=takes, reserved=tuple(DEFAULTS))
    name = signature.name
    sums, count = signature.tensors[:3], signature.tensors[3:]
    options = list(signature.options)

    formula = Formula(name, function, sums, {**dict.fromkeys(count, 9.0), **signature.options})

    def terms(_):
        loss = formula.read(torch.float64)
        return [loss, *formula.slopes(loss, sums[:2])]

    def plain(input, target, weight=None, *, reduction, activation, squared, batch, include_background, ignore_index,
              **chosen):  # fmt: skip
        regions = read_regions(input, target, activation, ignore_index)
        found = region_sums(*regions, activation, squared, batch, include_background, "macro", "count", weight)
        chosen |= dict.fromkeys(count, math.prod(input.shape[2:]) * (input.shape[0] if batch else 1))
        values = [found.intersection, found.predicted, found.true]
        if found.nothing is not None:  # neither a value nor a derivative of the function there
            values = [v.masked_fill(found.nothing, 1) for v in values]
        loss = formula(*values, **chosen).to(found.dtype)
        return reduce_regions(loss if found.nothing is None else loss.masked_fill(found.nothing, 0), found, reduction)

    functor = overlap_functor(terms, sums, count, options)
    numbers = [*options, "activation", "batch", "include_background", "ignore_index", "squared"]
    custom = CustomLoss(
        name, functor, plain, slots=("input", "target", "weight"), options=numbers, shape=_shape,
        saved_shapes=sums_shape,
    )  # fmt: skip

    def check(op_name, input, target, weight, include_background, ignore_index):
        check_regions(op_name, input, target, weight, include_background, ignore_index)
        if count and ignore_index is not None:
            raise ValueError(f"{op_name}: expected ignore_index None for a function of the count, got {ignore_index}")

    def operands(input, target, weight):
        ensure(custom, input)
        return region_operands(input, target, weight)

    parameters = [positional("input"), positional("target"), *(keyword(o, d) for o, d in signature.options.items())]
    parameters += [keyword(o, d) for o, d in DEFAULTS.items()] + [keyword("weight", None), keyword("reduction", "mean")]
    kinds = option_kinds(signature) | {o: DICE_OPTIONS[o] for o in DEFAULTS}
    checked = list(inspect.signature(check).parameters)
    return publish(
        custom, function, parameters, kinds, with_signature(check, *checked),
        with_signature(operands, "input", "target", "weight"), ("input", "target"),
    )  # fmt: skip


def _shape(tensors, options, reduction):
    """(B, C') for "none", (C',) with `batch`, else a scalar."""
    if reduction != NONE:
        return ()
    batch, classes, *_ = tensors[0].shape
    counted = classes if options["include_background"] else classes - 1
    return (counted,) if options["batch"] else (batch, counted)

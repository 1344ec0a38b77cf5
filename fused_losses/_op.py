"""Loads the compiled libraries and makes an `Op` of each loss in their table (csrc/losses.h).

`_C` (schemas and CPU kernels) is always there; `_C_cuda` only where the build found CUDA. The table says which tensors
an op takes, whose gradients it computes, what it keeps for its backward and which options travel in which order.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch

from . import _C
from ._torch_private import direct_call

NONE, MEAN, SUM, BATCHMEAN = range(4)  # how a reduction travels

HAS_CUDA_KERNELS = importlib.util.find_spec("._C_cuda", __package__) is not None
if HAS_CUDA_KERNELS:
    try:
        importlib.import_module("._C_cuda", __package__)
    except (ImportError, OSError):  # built with CUDA, imported under a torch without it
        HAS_CUDA_KERNELS = False

_NAMESPACE = torch.ops.fused_losses
_TABLE = {loss["name"]: loss for loss in _C.losses()}

scale_ = direct_call(_NAMESPACE.scale_.default)
torch.library.register_fake("fused_losses::scale_", lambda gradient, grad_output: None)
linear_log_sums = _NAMESPACE.linear_log_sums.default
torch.library.register_fake(
    "fused_losses::linear_log_sums",
    lambda input, *others: input.new_empty((input.shape[0], 2), dtype=accumulation_dtype(input.dtype)),
)
unit_rows, unit_rows_backward = map(direct_call, (_NAMESPACE.unit_rows.default, _NAMESPACE.unit_rows_backward.default))
torch.library.register_fake(
    "fused_losses::unit_rows",
    lambda input: tuple(
        input.new_empty(shape, dtype=accumulation_dtype(input.dtype)) for shape in (input.shape, (*input.shape[:-1], 1))
    ),
)
torch.library.register_fake(
    "fused_losses::unit_rows_backward", lambda grad_output, rows, norms, input: input.new_empty(input.shape)
)


class Settings(NamedTuple):
    """The arguments of one call that are no tensors, checked: for the kernel and for the reference."""

    options: tuple[float, ...]  # in the order of `Op.options`
    reduction: int
    keywords: dict[str, Any]  # as the reference takes them; shared by all equal calls, so never changed


class Op:
    """One loss as autograd sees it: a forward, a backward, and the plain PyTorch that stands in for both.

    forward(*tensors, options, reduction, gradients) -> [*losses, *saved, *gradients]
    backward(*grad_outputs, *saved, *tensors, options, reduction, gradients) -> gradients

    `options` are numbers in the order of `self.options`; `gradients` is a bit mask over the tensors, and a gradient
    comes for each bit set. Any pair of callables with this contract makes an Op, a compiled one or not.
    """

    __slots__ = (
        "name", "reference", "tensors", "differentiable", "options", "losses", "saved", "forward", "backward", "run",
        "exported", "has_cuda_kernel",
    )  # fmt: skip

    def __init__(
        self, name: str, reference: Callable, forward: Callable, backward: Callable, *, tensors: Sequence[str | None],
        differentiable: int, options: Sequence[str] = (), losses: int = 1, saved: int = 0,
        run: Callable | None = None, exported: Callable | None = None,
        has_cuda_kernel: bool | None = HAS_CUDA_KERNELS,
    ):  # fmt: skip
        """
        tensors: the reference's arguments, in the op's order; None where the op takes one that the reference has not.
        differentiable: bit mask of those whose gradient the backward computes; for any other the reference serves.
        losses, saved: how many results there are, and how many small tensors the forward keeps for the backward.
        run: `forward` by a shorter way for eager mode, if there is one.
        exported: `forward` with a derivative of its own, for torch.export; None: the
            reference serves where a gradient is asked for.
        has_cuda_kernel: False where a CUDA tensor is an error, None where the reference serves it.
        """
        self.name, self.reference, self.forward, self.backward = name, reference, forward, backward
        self.tensors, self.differentiable, self.options = tuple(tensors), differentiable, tuple(options)
        self.losses, self.saved, self.run, self.exported = losses, saved, run or forward, exported
        self.has_cuda_kernel = has_cuda_kernel

    def call_reference(self, tensors: Sequence, keywords: dict):
        """The reference of the op's tensors and the loss's other arguments; a keyword stands for a tensor not given."""
        return self.reference(**{**keywords, **{n: t for n, t in zip(self.tensors, tensors) if t is not None}})


def compiled_op(
    name: str, reference: Callable, shape: Callable, *, tensors: Sequence[str | None] | None = None,
    saved_shapes: Callable | None = None,
) -> Op:  # fmt: skip
    """The op `name` of the table.

    reference: its plain PyTorch. `tensors` are the names of its arguments where they are not the table's.
    shape(tensors, options, reduction): shape of each result; options by name, e.g. options["batch"].
    saved_shapes: as `shape`, those of what the forward keeps.
    """
    row = _TABLE[name]
    slots = argument_names(row["arguments"])
    incoming = argument_names(row["incoming"])
    losses = sum(argument.startswith("grad_") for argument in incoming)
    forward, backward = (getattr(_NAMESPACE, op).default for op in (name, f"{name}_backward"))
    exported = getattr(_NAMESPACE, name).exported
    if tensors is None:
        known = reference.__code__.co_varnames[: reference.__code__.co_argcount + reference.__code__.co_kwonlyargcount]
        tensors = [slot if slot in known else None for slot in slots]
    op = Op(
        name, reference, forward, backward, tensors=tensors, options=row["options"].split(), losses=losses,
        differentiable=sum(1 << slots.index(argument) for argument in row["differentiable"].split()),
        saved=len(incoming) - losses, run=direct_call(forward), exported=exported,
    )  # fmt: skip
    register_fakes(f"fused_losses::{name}", op, shape, saved_shapes)
    register_derivative(f"fused_losses::{name}", op)
    return op


def argument_names(schema: str) -> list[str]:
    """Of the arguments of a schema: "Tensor input, Tensor? weight" -> ["input", "weight"]."""
    return [argument.split()[1] for argument in schema.split(", ")]


def register_fakes(qualified_name: str, op: Op, shape: Callable, saved_shapes: Callable | None) -> None:
    """What the op and its backward return, without values: for torch.compile and torch.export."""

    def gradients_like(tensors, gradients):
        return [t.new_empty(t.shape) for i, t in enumerate(tensors) if t is not None and gradients >> i & 1]

    def forward(*arguments):
        *tensors, options, reduction, gradients = arguments
        first, options = tensors[0], dict(zip(op.options, options))
        dtype = accumulation_dtype(first.dtype)
        shapes = [shape(tensors, options, reduction)] * op.losses
        if saved_shapes is not None:
            shapes += saved_shapes(tensors, options, reduction)
        return [first.new_empty(s, dtype=dtype) for s in shapes] + gradients_like(tensors, gradients)

    def backward(*arguments):
        *tensors, _options, _reduction, gradients = arguments
        return gradients_like(tensors[op.losses + op.saved :], gradients)

    for overload in ("", ".exported"):
        torch.library.register_fake(f"{qualified_name}{overload}", forward)
    torch.library.register_fake(f"{qualified_name}_backward", backward)


def register_derivative(qualified_name: str, op: Op) -> None:
    """The gradient of the op's overload for exported programs; the public functions have Functions of their own."""
    n = len(op.tensors)

    def setup_context(ctx, inputs, output):
        *tensors, options, reduction, _gradients = inputs
        ctx.wire = options, reduction
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *output[op.losses : op.losses + op.saved])

    def backward(ctx, grads):
        losses, needs = grads[: op.losses], sum(1 << i for i in range(n) if ctx.needs_input_grad[i])
        if torch.is_grad_enabled() or any(g is not None for g in grads[op.losses :]):
            raise RuntimeError(f"{op.name}: expected one derivative of an exported program, got a second")
        if needs & ~op.differentiable:
            raise RuntimeError(f"{op.name}: expected gradients that a kernel computes, got a tensor without one")
        rest = ([] if not ctx.wire[0] else None), None, None  # torch takes an empty list for one of tensors
        if all(g is None for g in losses):
            return *[None] * n, *rest
        like = next(g for g in losses if g is not None)
        losses = [torch.zeros_like(like) if g is None else g for g in losses]
        tensors, kept = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
        found = iter(op.backward(*losses, *kept, *tensors, *ctx.wire, needs))
        return *(next(found) if needs >> i & 1 else None for i in range(n)), *rest

    torch.library.register_autograd(f"{qualified_name}.exported", backward, setup_context=setup_context)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32: the dtype of every loss and of every sum."""
    return torch.float64 if dtype is torch.float64 else torch.float32


_NOTHING = nullcontext()


def autocasts(x: torch.Tensor) -> bool:
    """Autocast is on for x's device."""
    device = x.device.type
    return device != "meta" and torch.is_autocast_enabled(device)


def without_autocast(x: torch.Tensor):
    """Autocast is off for x's device; where it is anyway, no context is entered, which costs a small loss a tenth."""
    device = x.device.type
    if device == "meta" or (not torch.compiler.is_compiling() and not autocasts(x)):
        return _NOTHING
    return torch.autocast(device, enabled=False)

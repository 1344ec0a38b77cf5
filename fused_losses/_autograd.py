"""The one pair of autograd Functions that every loss shares, and the choice between kernel and reference.

`fused` is what the public functions call. It runs the kernel in eager mode, under torch.compile and torch.export,
and the plain-PyTorch reference where only plain PyTorch can serve: torch.func transforms, forward-mode tangents,
tensor subclasses, devices without a kernel, and gradients that no kernel computes.
"""

from __future__ import annotations

from typing import Sequence

import torch
from torch.autograd import forward_ad
from torch.autograd.function import Function

from ._ops import HAS_CUDA_KERNELS, NONE, Op, scale_

_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})
_transforms_active = torch._C._are_functorch_transforms_active
_is_batched = torch._C._functorch.is_legacy_batchedtensor  # true under is_grads_batched, which is no transform
_NOTHING = (None,) * 16
_scale = scale_._op  # as Op.run
_keeps_graph = torch._C._autograd._get_current_graph_task_keep_graph


def fused(op: Op, tensors: tuple, options: Sequence[float], reduction: int, keywords: dict):
    """The loss of `tensors` by the kernel of `op`, or by its reference where the kernel cannot serve.

    tensors: the arguments named in `op.tensors`, in that order, None for one not given; already checked.
    options, reduction: the same facts as numbers for the kernel; keywords: all other arguments of the reference.
    """
    needs, plain, dense, bit = 0, True, True, 1
    for t in tensors:
        if t is not None:
            if t.requires_grad:
                needs |= bit
            if type(t) not in _PLAIN:
                plain = False
            if not t.is_contiguous():
                dense = False
        bit <<= 1
    if needs and not torch.is_grad_enabled():
        needs = 0
    if needs & ~op.differentiable or _transforms_active():  # Dynamo answers it too: torch.func while compiling
        return op.call_reference(tensors, keywords)
    compiling = torch.compiler.is_compiling()
    if not compiling:
        first = tensors[0]
        if not plain or forward_ad._current_level >= 0 or not (first.is_cpu or _has_kernel(op, first.device)):
            return op.call_reference(tensors, keywords)
    if needs:
        call = op, keywords, options, reduction, needs, dense
        return FusedLoss.apply(call, *tensors) if compiling else _apply(call, *tensors)
    out = (op.forward if compiling else op.run)(*(tensors if dense else _contiguous(tensors)), options, reduction, 0)
    return out[0] if op.losses == 1 else tuple(out[: op.losses])


def _has_kernel(op: Op, device: torch.device) -> bool:
    if device.type == "cuda" and not HAS_CUDA_KERNELS:
        raise RuntimeError(
            f"{op.name}: expected fused_losses built with CUDA for an input on {device}, got a build without it; "
            "reinstall with nvcc on the PATH, or call fused_losses.reference"
        )
    return device.type == "cuda"


def _contiguous(tensors: Sequence) -> list:
    return [t if t is None else t.contiguous() for t in tensors]


def _at_positions(gradients: Sequence[torch.Tensor], needs: int, n: int) -> tuple:
    """What a backward returns: None for `call`, then the gradients asked for spread over the n tensor arguments."""
    if needs == 1:
        return None, gradients[0], *_NOTHING[2 : n + 1]
    spread, found = [None] * (n + 1), iter(gradients)
    for i in range(n):
        if needs >> i & 1:
            spread[i + 1] = next(found)
    return tuple(spread)


class FusedLoss(Function):
    """Forward: the loss, and its gradient in the same pass where the result is a scalar."""

    @staticmethod
    def forward(ctx, call, *tensors):
        op, _, options, reduction, needs, dense = ctx.call = call
        # float16 keeps no gradient: 1/N may underflow in it, so the backward recomputes with 1/N in float32.
        fuse = needs if reduction != NONE and tensors[0].dtype is not torch.float16 else 0
        compiling = torch.compiler.is_compiling()
        if op.losses > 1:
            # The op's gradient is the first loss's: handed over if no other loss is differentiated.
            if compiling:
                fuse = 0
            else:
                ctx.set_materialize_grads(False)
        run = op.forward if compiling else op.run
        out = run(*(tensors if dense else _contiguous(tensors)), options, reduction, fuse)
        head = op.losses + op.saved
        ctx.gradients, ctx.kept = None, fuse and compiling
        if ctx.kept:
            ctx.save_for_backward(*tensors, *out[op.losses :])
        else:
            if fuse:
                ctx.gradients = out[head:]
            ctx.save_for_backward(*tensors, *out[op.losses : head])
        return out[0] if op.losses == 1 else tuple(out[: op.losses])

    @staticmethod
    def backward(ctx, *grad_outputs):
        op, _, options, reduction, needs, _ = call = ctx.call
        grad_mode, gradients, grad_output = torch.is_grad_enabled(), ctx.gradients, grad_outputs[0]
        if op.losses > 1:
            given = [g for g in grad_outputs if g is not None]
            if not given:
                return (None,) * len(ctx.needs_input_grad)
            if len(given) > 1 or grad_output is None:
                gradients = None  # they are those of the first loss alone
            grad_outputs = [torch.zeros_like(given[0]) if g is None else g for g in grad_outputs]
        n = len(ctx.needs_input_grad) - 1
        if gradients is not None and not grad_mode:
            if _keeps_graph() or _is_batched(grad_output) or _transforms_active():
                gradients = [g * grad_output for g in gradients]
            else:
                ctx.gradients = None
                for g in gradients:
                    _scale(g, grad_output)
            return _at_positions(gradients, needs, n)
        eager = not torch.compiler.is_compiling()
        saved = ctx.saved_tensors
        tensors, rest = saved[:n], saved[n:]
        batched = eager and any(map(_is_batched, grad_outputs))
        if grad_mode and eager and not batched:
            gradients = FusedLossBackward.apply(call, rest, *grad_outputs, *tensors)
        elif ctx.kept:
            gradients = [g * grad_outputs[0] for g in rest[op.saved :]]
        elif batched or (eager and _transforms_active()):
            gradients = _first_derivative(call, *grad_outputs, *tensors)
        else:
            if eager and not _keeps_graph():
                ctx.gradients = None  # not handed over: free it before the recomputed one is allocated
            incoming, tensors = (
                _contiguous(grad_outputs),
                _contiguous(tensors),
            )  # an expanded scalar comes in from sum()
            gradients = op.backward(*incoming, *rest[: op.saved], *tensors, options, reduction, needs)
        return _at_positions(gradients, needs, n)


# Function.apply without its search for arguments left over from torch.func, which `fused` has excluded: a tenth of the
# time of a small loss.
_apply = super(Function, FusedLoss).apply


class FusedLossBackward(Function):
    """The first derivative as a differentiable function, entered only under create_graph.

    Its own derivative is the vector-Jacobian product of the reference's first derivative.
    """

    @staticmethod
    def forward(ctx, call, saved, *arguments):
        op, _, options, reduction, needs, _ = ctx.call = call
        incoming, tensors = _contiguous(arguments[: op.losses]), _contiguous(arguments[op.losses :])
        ctx.save_for_backward(*arguments)
        return tuple(op.backward(*incoming, *saved[: op.saved], *tensors, options, reduction, needs))

    @staticmethod
    def backward(ctx, *grad_gradients):
        arguments = ctx.saved_tensors
        active = [i for i, a in enumerate(arguments) if a is not None and ctx.needs_input_grad[2 + i]]

        def first(*some):
            full = list(arguments)
            for i, value in zip(active, some):
                full[i] = value
            return tuple(_first_derivative(ctx.call, *full))

        found = torch.func.vjp(first, *(arguments[i] for i in active))[1](tuple(grad_gradients))
        spread = dict(zip(active, found))
        return None, None, *(spread.get(i) for i in range(len(arguments)))


def _first_derivative(call: tuple, *arguments) -> Sequence[torch.Tensor]:
    """The reference's gradients for the tensors asked for; arguments are the grad_outputs, then the tensors."""
    op, keywords, _, _, needs, _ = call
    grad_outputs, tensors = arguments[: op.losses], list(arguments[op.losses :])
    active = [i for i in range(len(tensors)) if needs >> i & 1]

    def loss(*some):
        for i, value in zip(active, some):
            tensors[i] = value
        return op.call_reference(tensors, keywords)

    _, pullback = torch.func.vjp(loss, *(tensors[i] for i in active))
    return pullback(grad_outputs[0] if op.losses == 1 else tuple(grad_outputs))

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
_keeps_graph = torch._C._autograd._get_current_graph_task_keep_graph


def fused(op: Op, tensors: tuple, options: Sequence[float], reduction: int, keywords: dict):
    """The loss of `tensors` by the kernel of `op`, or by its reference where the kernel cannot serve.

    tensors: the arguments named in `op.tensors`, in that order, None for one not given; already checked.
    options, reduction: the same facts as numbers for the kernel; keywords: all other arguments of the reference.
    """
    if op.forward is None:  # DEVELOPMENT ONLY
        return op.call_reference(tensors, keywords)
    needs = 0
    if torch.is_grad_enabled():
        for i, t in enumerate(tensors):
            if t is not None and t.requires_grad:
                if i not in op.differentiable:
                    return op.call_reference(tensors, keywords)
                needs |= 1 << i
    if _transforms_active():  # Dynamo answers it too: torch.func inside a compiled function
        return op.call_reference(tensors, keywords)
    if not torch.compiler.is_compiling():
        if forward_ad._current_level >= 0:
            return op.call_reference(tensors, keywords)
        for t in tensors:
            if t is not None and type(t) not in _PLAIN:
                return op.call_reference(tensors, keywords)
        if not tensors[0].is_cpu and not _has_kernel(op, tensors[0].device):
            return op.call_reference(tensors, keywords)
    if needs:
        return FusedLoss.apply(op, keywords, options, reduction, needs, *tensors)
    out = op.forward(*_contiguous(tensors), options, reduction, 0)
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
    """Spread the gradients asked for over the n tensor arguments, None elsewhere."""
    rest = iter(gradients)
    return tuple(next(rest) if needs >> i & 1 else None for i in range(n))


class FusedLoss(Function):
    """Forward: the loss, and its gradient in the same pass where the result is a scalar."""

    @staticmethod
    def forward(ctx, op, keywords, options, reduction, needs, *tensors):
        # float16 keeps no gradient: 1/N may underflow in it, so the backward recomputes with 1/N in float32.
        fuse = needs if reduction != NONE and tensors[0].dtype is not torch.float16 else 0
        if op.losses > 1:
            # The op's gradient is the first loss's: handed over if no other loss is differentiated.
            if torch.compiler.is_compiling():
                fuse = 0
            else:
                ctx.set_materialize_grads(False)
        out = op.forward(*_contiguous(tensors), options, reduction, fuse)
        head = op.losses + op.saved
        ctx.call = op, keywords, options, reduction, needs
        ctx.gradients = ctx.kept = None
        if fuse and torch.compiler.is_compiling():
            ctx.kept = len(out) - head
            ctx.save_for_backward(*tensors, *out[op.losses :])
        else:
            if fuse:
                ctx.gradients = out[head:]
            ctx.save_for_backward(*tensors, *out[op.losses : head])
        return out[0] if op.losses == 1 else tuple(out[: op.losses])

    @staticmethod
    def backward(ctx, *grad_outputs):
        op, keywords, options, reduction, needs = ctx.call
        n = len(ctx.needs_input_grad) - 5
        prefix = (None,) * 5
        eager, grad_mode = not torch.compiler.is_compiling(), torch.is_grad_enabled()
        handed = ctx.gradients is not None and not grad_mode
        if op.losses > 1:
            given = [g for g in grad_outputs if g is not None]
            if not given:
                return prefix + (None,) * n
            handed = handed and len(given) == 1 and grad_outputs[0] is not None
            grad_outputs = tuple(torch.zeros_like(given[0]) if g is None else g for g in grad_outputs)
        if handed:
            gradients, grad_output = ctx.gradients, grad_outputs[0]
            if _keeps_graph() or _is_batched(grad_output) or _transforms_active():
                gradients = [g * grad_output for g in gradients]
            else:
                ctx.gradients = None
                for g in gradients:
                    scale_(g, grad_output)
            return prefix + _at_positions(gradients, needs, n)
        saved = ctx.saved_tensors
        tensors, rest = saved[:n], saved[n:]
        batched = eager and any(map(_is_batched, grad_outputs))
        if grad_mode and eager and not batched:
            found = FusedLossBackward.apply(op, keywords, options, reduction, needs, rest, *grad_outputs, *tensors)
            return prefix + _at_positions(found if isinstance(found, tuple) else (found,), needs, n)
        if ctx.kept is not None:
            gradients = [g * grad_outputs[0] for g in rest[op.saved :]]
        elif batched or (eager and _transforms_active()):
            gradients = _first_derivative(op, keywords, needs, *grad_outputs, *tensors)
        else:
            if eager and not _keeps_graph():
                ctx.gradients = None  # not handed over: free it before the recomputed one is allocated
            incoming, tensors = _contiguous(grad_outputs), _contiguous(tensors)  # an expanded scalar comes in from sum()
            gradients = op.backward(*incoming, *rest[: op.saved], *tensors, options, reduction, needs)
        return prefix + _at_positions(gradients, needs, n)


class FusedLossBackward(Function):
    """The first derivative as a differentiable function, entered only under create_graph.

    Its own derivative is the vector-Jacobian product of the reference's first derivative.
    """

    @staticmethod
    def forward(ctx, op, keywords, options, reduction, needs, saved, *arguments):
        incoming, tensors = _contiguous(arguments[: op.losses]), _contiguous(arguments[op.losses :])
        ctx.call = op, keywords, needs
        ctx.save_for_backward(*arguments)
        out = op.backward(*incoming, *saved[: op.saved], *tensors, options, reduction, needs)
        return tuple(out)

    @staticmethod
    def backward(ctx, *grad_gradients):
        op, keywords, needs = ctx.call
        arguments = ctx.saved_tensors
        active = [i for i, a in enumerate(arguments) if a is not None and ctx.needs_input_grad[6 + i]]

        def first(*some):
            full = list(arguments)
            for i, value in zip(active, some):
                full[i] = value
            return tuple(_first_derivative(op, keywords, needs, *full))

        found = torch.func.vjp(first, *(arguments[i] for i in active))[1](tuple(grad_gradients))
        spread = dict(zip(active, found))
        return (None,) * 6 + tuple(spread.get(i) for i in range(len(arguments)))


def _first_derivative(op: Op, keywords: dict, needs: int, *arguments) -> Sequence[torch.Tensor]:
    """The reference's gradients for the tensors in `needs`; arguments are the grad_outputs, then the tensors."""
    grad_outputs, tensors = arguments[: op.losses], list(arguments[op.losses :])
    active = [i for i in range(len(tensors)) if needs >> i & 1]

    def loss(*some):
        for i, value in zip(active, some):
            tensors[i] = value
        return op.call_reference(tensors, keywords)

    _, pullback = torch.func.vjp(loss, *(tensors[i] for i in active))
    return pullback(grad_outputs[0] if op.losses == 1 else tuple(grad_outputs))

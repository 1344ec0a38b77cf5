"""The one pair of autograd Functions that every loss shares, and the choice between kernel and reference.

`fused` is what the public functions call. It runs the kernel in eager mode, under torch.compile and torch.export,
and the plain-PyTorch reference where only plain PyTorch can serve: `reference_reason` lists when.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import is_grad_enabled
from torch.autograd.function import Function

from ._op import NONE, Op, Settings, accumulation_dtype, scale_, without_autocast
from ._torch_private import (
    TRACED,
    direct_apply,
    dispatches_plainly,
    forward_mode_active,
    is_batched,
    is_wrapped,
    keeps_graph,
    saved_tensor_hooks,
    traces_gradients,
    tracing_state,
    transforms_active,
    unwrap_if_dead,
    without_subclasses,
)

PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})
_NOTHING = (None,) * 16


def fused(op: Op, tensors: tuple, settings: Settings, compiling: bool):
    """The loss of `tensors` by the kernel of `op`, or by its reference where the kernel cannot serve.

    tensors: the arguments named in `op.tensors`, in that order, None for one not given; already checked.
    compiling: Dynamo or torch.export traces this call.
    """
    needs, plain, escaped, bit = 0, True, False, 1
    for t in tensors:
        if t is not None:
            if t.requires_grad:
                needs |= bit
                if not compiling and is_wrapped(t):
                    escaped = True
            if type(t) not in PLAIN:
                plain = False
        bit <<= 1
    if needs and not is_grad_enabled():
        needs = 0
    # Almost every call is common; `reference_reason` decides of the others.
    common = plain and not needs & ~op.differentiable and not transforms_active()
    if common and not compiling:
        first = tensors[0]
        common = first.is_cpu or (first.is_cuda and op.has_cuda_kernel is True)
        common = common and not forward_mode_active() and tracing_state() is None
    elif common and needs:
        common = not traces_gradients()
    if not common and reference_reason(op, tensors, needs, compiling):
        if compiling and not plain:
            return _reference_of_subclass(op, tensors, settings)
        if plain and runs_plainly() and (tensors[0].is_cpu or _has_kernel(op, tensors[0].device)):
            _look_at_values(op, tensors, settings)
        return op.call_reference(tensors, settings.keywords)
    exporting = compiling and torch.compiler.is_exporting()  # no Function is left in an exported program
    if needs and not exporting:
        if escaped:
            tensors = [t if t is None else unwrap_if_dead(t) for t in tensors]
        if not compiling:
            return _apply((op, settings, needs, compiling), *tensors)
        return FusedLoss.apply((op, settings, needs, compiling), *_each_once(tensors))
    if exporting and op.exported is None:
        if needs:
            return op.call_reference(tensors, settings.keywords)
        tensors = [t if t is None else t.detach() for t in tensors]  # asked for later, a gradient is refused
    run = (op.exported or op.forward) if exporting else op.forward if compiling else op.run
    out = run(*tensors, settings.options, settings.reduction, 0)
    return out[0] if op.losses == 1 else tuple(out[: op.losses])


def _each_once(tensors: Sequence) -> list:
    """The tensors, a view in place of one that was there before: Dynamo passes none to a Function twice."""
    return [
        t.view_as(t) if t is not None and any(t is other for other in tensors[:i]) else t for i, t in enumerate(tensors)
    ]


def reference_reason(op: Op, tensors: Sequence, needs: int, compiling: bool) -> str | None:
    """Why plain PyTorch serves this call and not the kernel, for its user; None where the kernel serves.

    needs: bit mask of the tensors whose gradient is asked for.
    """
    for t in tensors:
        if t is not None and type(t) not in PLAIN and not (compiling and type(t) in TRACED):
            return f"a tensor is a {type(t).__name__}, a subclass of torch.Tensor that no kernel reads"
    if transforms_active():
        return "a transform of torch.func is active (vmap, grad, jvp, ...), and a kernel has no rule for it"
    if compiling:
        if needs and traces_gradients():
            return "torch.compile traces the gradient, too, and a kernel's would have no derivative in its graph"
    else:
        if forward_mode_active():
            return "a level of forward-mode differentiation is open: the tensors may carry tangents"
        if tracing_state() is not None:
            return "torch.jit.trace records, and can record no kernel's gradient"
        if not tensors[0].is_cpu and not _has_kernel(op, tensors[0].device):
            return f"no kernel was written for tensors on {tensors[0].device}"
    if needs & ~op.differentiable:
        without = [n for i, n in enumerate(op.tensors) if needs & ~op.differentiable & 1 << i]
        return f"no kernel computes the gradient of {' or '.join(map(str, without))}, which is asked for"
    return None


def _has_kernel(op: Op, device: torch.device) -> bool:
    if device.type == "cuda" and op.has_cuda_kernel is False:
        raise RuntimeError(
            f"{op.name}: expected fused_losses built with CUDA for an input on {device}, got a build without it; "
            "reinstall with nvcc on the PATH, or call fused_losses.reference"
        )
    return device.type == "cuda" and bool(op.has_cuda_kernel)


def _look_at_values(op: Op, tensors: Sequence, settings: Settings) -> None:
    """Raises what the kernel raises of values (a class out of range, a mask of 255): the reference looks at none."""
    with torch.no_grad():
        op.run(*[t if t is None else unwrap_if_dead(t) for t in tensors], settings.options, settings.reduction, 0)


def _reference_of_subclass(op: Op, tensors: Sequence, settings: Settings):
    """The reference while compiling. Of a subclass that dispatches as Tensor does only the result is wrapped: Dynamo
    cannot trace `1 - x` of one."""
    watched = [t for t in tensors if t is not None and type(t) not in PLAIN]
    if not all([dispatches_plainly(type(t)) for t in watched]):
        return op.call_reference(tensors, settings.keywords)
    with without_subclasses():
        out = op.call_reference(tensors, settings.keywords)
    one = watched[0].new_ones(())  # times it, the loss is of the subclass
    return out * one if op.losses == 1 else tuple(o * one for o in out)


def runs_plainly() -> bool:
    """Nobody watches the operations: no transform, tangent, tracer or compiler; an autograd Function serves."""
    return not (
        torch.compiler.is_compiling() or transforms_active() or forward_mode_active() or tracing_state() is not None
    )


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
        op, (options, reduction, _), needs, compiling = ctx.call = call
        # float16 keeps no gradient: 1/N may underflow in it, so the backward recomputes with 1/N in float32.
        fuse = needs if reduction != NONE and tensors[0].dtype is not torch.float16 else 0
        if op.losses > 1:
            # The op's gradient is the first loss's: handed over if no other loss is differentiated.
            if compiling:
                fuse = 0
            else:
                ctx.set_materialize_grads(False)
        if fuse and not compiling and saved_tensor_hooks():
            fuse = 0  # they see what is saved, and no gradient of ours: a checkpoint would keep it
        run = op.forward if compiling else op.run
        out = run(*tensors, options, reduction, fuse)
        head = op.losses + op.saved
        if fuse and compiling:
            ctx.gradients, ctx.kept = None, True
            ctx.save_for_backward(*tensors, *out[op.losses :])
        else:
            ctx.gradients, ctx.kept = out[head:] if fuse else None, False
            ctx.save_for_backward(*tensors, *out[op.losses : head])
        return out[0] if op.losses == 1 else tuple(out[: op.losses])

    @staticmethod
    def backward(ctx, *grad_outputs):
        call, gradients, grad_mode = ctx.call, ctx.gradients, is_grad_enabled()
        op, needs, n = call[0], call[2], len(ctx.needs_input_grad) - 1
        if op.losses > 1:
            given = [g for g in grad_outputs if g is not None]
            if not given:
                return (None,) * (n + 1)
            if len(given) > 1 or grad_outputs[0] is None:
                gradients = None  # they are those of the first loss alone
        if gradients is not None and not grad_mode:
            return _at_positions(_hand_over(ctx, gradients, grad_outputs[0]), needs, n)
        if op.losses > 1:
            grad_outputs = [torch.zeros_like(given[0]) if g is None else g for g in grad_outputs]
        saved = ctx.saved_tensors
        tensors, kept = saved[:n], saved[n:]
        if torch.compiler.is_compiling():
            if grad_mode and not call[3]:  # compiled autograd, under create_graph
                gradients = _first_derivative(call, *grad_outputs, *tensors)
            elif ctx.kept:
                gradients = [g * grad_outputs[0] for g in kept[op.saved :]]
            else:
                gradients = _run_backward(call, kept, grad_outputs, tensors)
        elif only_plain(grad_outputs):
            gradients = _first_derivative(call, *grad_outputs, *tensors)
        elif grad_mode:
            gradients = FusedLossBackward.apply(call, kept, *grad_outputs, *tensors)
        else:
            if not keeps_graph():
                ctx.gradients = None  # not handed over: free it before the recomputed one is allocated
            gradients = _run_backward(call, kept, grad_outputs, tensors)
        return _at_positions(gradients, needs, n)


def _hand_over(ctx, gradients: list, grad_output: torch.Tensor) -> list:
    """The saved gradients times the scalar `grad_output`: themselves, scaled in place, where nobody else needs them."""
    kept = torch.compiler.is_compiling() or keeps_graph()  # what compiles a backward cannot ask the second
    if kept or transforms_active() or forward_mode_active() or is_batched(grad_output):
        return [g * grad_output for g in gradients]
    ctx.gradients = None
    double = grad_output.dtype is torch.float64
    for g in gradients:  # each has its own tensor's dtype
        same = (g.dtype is torch.float64) is double
        scale_(g, grad_output if same else grad_output.to(accumulation_dtype(g.dtype)))
    return gradients


def only_plain(grad_outputs: Sequence[torch.Tensor]) -> bool:
    """The incoming gradients are batched, wear a transform or carry tangents: plain PyTorch alone serves them."""
    return transforms_active() or forward_mode_active() or any(map(is_batched, grad_outputs))


def _run_backward(call: tuple, kept: Sequence, grad_outputs: Sequence, tensors: Sequence) -> list[torch.Tensor]:
    """The kernel's gradients."""
    op, (options, reduction, _), needs, _ = call
    return op.backward(*grad_outputs, *kept[: op.saved], *tensors, options, reduction, needs)


_apply = direct_apply(FusedLoss)


class FusedLossBackward(Function):
    """The first derivative as a differentiable function, entered only under create_graph.

    Its own derivative is the vector-Jacobian product of the reference's first derivative.
    """

    @staticmethod
    def forward(ctx, call, saved, *arguments):
        op = call[0]
        ctx.call = call
        ctx.save_for_backward(*arguments)
        return tuple(_run_backward(call, saved, arguments[: op.losses], arguments[op.losses :]))

    @staticmethod
    def backward(ctx, *grad_gradients):
        arguments = ctx.saved_tensors
        active = [i for i, a in enumerate(arguments) if a is not None and ctx.needs_input_grad[2 + i]]

        def first(*some):
            full = list(arguments)
            for i, value in zip(active, some):
                full[i] = value
            return tuple(_first_derivative(ctx.call, *full))

        with without_autocast(grad_gradients[0]):  # which would cast the products of a backward
            found = _pull_back(first, [arguments[i] for i in active], tuple(grad_gradients))
        spread = dict(zip(active, found))
        return None, None, *(spread.get(i) for i in range(len(arguments)))


def _first_derivative(call: tuple, *arguments) -> Sequence[torch.Tensor]:
    """The reference's gradients for the tensors asked for; arguments are the grad_outputs, then the tensors."""
    op, settings, needs, *_ = call
    grad_outputs, tensors = arguments[: op.losses], list(arguments[op.losses :])
    active = [i for i in range(len(tensors)) if needs >> i & 1]

    def loss(*some):
        for i, value in zip(active, some):
            tensors[i] = value
        return op.call_reference(tensors, settings.keywords)

    with without_autocast(grad_outputs[0]):
        incoming = grad_outputs[0] if op.losses == 1 else tuple(grad_outputs)
        return _pull_back(loss, [tensors[i] for i in active], incoming)


def _pull_back(function, inputs: Sequence[torch.Tensor], incoming) -> Sequence[torch.Tensor]:
    """The vector-Jacobian product of `function` at `inputs`."""
    if torch.compiler.is_compiling() or not saved_tensor_hooks():
        return torch.func.vjp(function, *inputs)[1](incoming)
    differentiable = is_grad_enabled()  # torch.func allows no hooks
    with torch.enable_grad():
        inputs = [t.view_as(t) if differentiable and t.requires_grad else t.detach().requires_grad_() for t in inputs]
        return torch.autograd.grad(
            function(*inputs), inputs, incoming, create_graph=differentiable, materialize_grads=True
        )

"""A batch spread over processes: torch.distributed's collectives around the compiled ops.

Each process gives its rows and gets the loss of all; the gradients of its rows are those of the sum of the processes'
losses, one and the same number, so that their mean, which DDP and FSDP take, is the gradient of that number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist

from .. import _checks as check
from .._op import MEAN, SUM, Op, accumulation_dtype
from .._torch_private import process_group

# By their names of torch 2.13, or those of the versions before it; None where torch was built without processes.
_all_gather = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or getattr(dist, "reduce_scatter_tensor", None)

_DTYPES = sorted(check.FLOATING, key=str)


class Processes(NamedTuple):
    """A group of processes, this one's place among them, and the loss that asks, for messages."""

    loss: str
    group: dist.ProcessGroup
    size: int
    rank: int

    def first(self, rows: int) -> int:
        """The place of this process's first row among the rows of all."""
        return self.rank * rows


def processes(name: str, group) -> Processes:
    """Those of a ProcessGroup or of a DeviceMesh of one dimension that this process is in."""
    expected = f"{name}: expected group to be"
    if not dist.is_available() or not dist.is_initialized():
        raise ValueError(f"{expected} None without torch.distributed's init_process_group, got {type(group).__name__}")
    if isinstance(group, dist.DeviceMesh):
        if group.ndim != 1:
            raise ValueError(f"{expected} a DeviceMesh of one dimension, got one of {group.ndim}")
        group = group.get_group() if group.get_coordinate() is not None else dist.GroupMember.NON_GROUP_MEMBER
    outside = not isinstance(group, dist.ProcessGroup) and group == dist.GroupMember.NON_GROUP_MEMBER
    if not outside and not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"{expected} a ProcessGroup, a DeviceMesh or None, got {type(group).__name__}")
    rank = -1 if outside else dist.get_rank(group)
    if rank < 0:
        raise ValueError(f"{expected} one that this process is in, got one without it")
    return Processes(name, group, dist.get_world_size(group), rank)


# ---- Collectives ----


def gathered(x: torch.Tensor, among: Processes) -> torch.Tensor:
    """The rows of all processes, in their order."""
    out = x.new_empty((among.size * x.shape[0], *x.shape[1:]))
    _all_gather(out, x.contiguous(), group=among.group)
    return out


def shared_out(x: torch.Tensor, among: Processes) -> torch.Tensor:
    """This process's rows of the sum of all processes' x."""
    out = x.new_empty((x.shape[0] // among.size, *x.shape[1:]))
    _reduce_scatter(out, x.contiguous(), group=among.group)
    return out


def own_part(x: torch.Tensor, among: Processes) -> torch.Tensor:
    """This process's rows of what is the same in all."""
    return x.chunk(among.size)[among.rank].clone()


def reduced(x: torch.Tensor, among: Processes, by: str = "SUM") -> torch.Tensor:
    """The sum, or the largest, of all processes' x, element by element."""
    out = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(out, getattr(dist.ReduceOp, by), group=among.group)
    return out


def total(x: torch.Tensor, among: Processes) -> torch.Tensor:
    """The sum of all processes' scalars: the same bits in each."""
    return gathered(x.reshape(1), among).sum()


def log_sums(x: torch.Tensor, among: Processes) -> torch.Tensor:
    """The logarithm of the sum of all processes' e^x, element by element."""
    most = reduced(x, among, "MAX")
    most = torch.where(most.isinf(), 0, most)
    return most + reduced((x - most).exp(), among).log()


class _Collective(torch.autograd.Function):
    """A linear map of all processes' x along its first dimension, any number of times differentiable; its transpose is
    one too."""

    @staticmethod
    def forward(x, among, function, transpose):
        return function(x, among)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.among, ctx.function, ctx.transpose = inputs

    @staticmethod
    def backward(ctx, grad):
        return _Collective.apply(grad, ctx.among, ctx.transpose, ctx.function), None, None, None

    @staticmethod
    def jvp(ctx, tangent, *_):
        return _Collective.apply(tangent, ctx.among, ctx.function, ctx.transpose)

    @staticmethod
    def vmap(info, in_dims, x, among, function, transpose):
        return _Collective.apply(x.movedim(in_dims[0], -1), among, function, transpose), -1


_MAPS = {function.__name__: function for function in (gathered, shared_out, own_part)}


@torch.library.custom_op("fused_losses::collective", mutates_args=())
def _exported(x: torch.Tensor, group: str, function: str, transpose: str) -> torch.Tensor:
    """`_Collective` of a group's name, for exported programs, in which no Function is left."""
    return _MAPS[function](x, _named(group))


@_exported.register_fake
def _(x, group, function, transpose):
    size = _named(group).size
    return x.new_empty((x.shape[0] * size if function == "gathered" else x.shape[0] // size, *x.shape[1:]))


def _transposed(ctx, grad):
    return _exported(grad, ctx.group, ctx.transpose, ctx.function), None, None, None


def _keep(ctx, inputs, output):
    _, ctx.group, ctx.function, ctx.transpose = inputs


_exported.register_autograd(_transposed, setup_context=_keep)


def _named(group: str) -> Processes:
    found = process_group(group)
    return Processes("", found, dist.get_world_size(found), dist.get_rank(found))


def _differentiable(x: torch.Tensor, among: Processes, function: Callable, transpose: Callable) -> torch.Tensor:
    if torch.compiler.is_exporting():
        return _exported(x, among.group.group_name, function.__name__, transpose.__name__)
    return _Collective.apply(x, among, function, transpose)


def gathered_rows(x: torch.Tensor, among: Processes) -> torch.Tensor:
    """`gathered`, differentiable: the gradients of a row, from all processes, are added up where it is."""
    return _differentiable(x, among, gathered, shared_out)


def gathered_parts(x: torch.Tensor, among: Processes) -> torch.Tensor:
    """`gathered`, differentiable, where every process goes on to the same: its part of the gradient is its own."""
    return _differentiable(x, among, gathered, own_part)


def check_even(argument: str, x: torch.Tensor, among: Processes) -> None:
    """All processes have a tensor of one shape and dtype; every one of them calls this, and all raise or none."""
    own = torch.tensor([*x.shape, _DTYPES.index(x.dtype)], device=x.device)
    all = gathered(own.unsqueeze(0), among)
    what = f"{among.loss}: expected {argument} of one shape and dtype in every process of group"
    if torch.compiler.is_compiling() or not x.is_cpu:  # nobody waits for a GPU
        torch._assert_async((all == own).all(), what)
        return
    given = [f"{tuple(shape)} {str(_DTYPES[dtype]).removeprefix('torch.')}" for *shape, dtype in all.tolist()]
    if len(set(given)) > 1:
        raise ValueError(f"{what}, got {', '.join(dict.fromkeys(given))}")


# ---- Ops ----


def whole_batch(name: str, group, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The rows of all processes of a group, differentiable; without a group the tensors themselves."""
    if group is None:
        return tensors
    among = processes(name, group)
    check_even("rows", tensors[0], among)
    return tuple(gathered_rows(t, among) for t in tensors)


def _reference(op: Op, spread: tuple[str, ...], group) -> Callable:
    """The op's plain PyTorch of the whole batch, in every process."""

    def reference(**arguments):
        whole = whole_batch(op.name, group, *(arguments[name] for name in spread))
        return op.reference(**{**arguments, **dict(zip(spread, whole))})

    return reference


def _placed(op: Op, options: tuple, rows: int, among: Processes) -> list[float]:
    """The options, with the place of this process's rows among those of all."""
    return [float(among.first(rows)) if name == "first" else value for name, value in zip(op.options, options)]


def _wanted(op: Op, gradients: int) -> list[str]:
    """The names of the tensors whose gradient is asked for, in the order in which the gradients come."""
    return [name for i, name in enumerate(op.tensors) if gradients >> i & 1]


def across_two_sets(op: Op, group) -> Op:
    """The op of pairs of rows (x, y) spread over a group's processes.

    Only y is gathered: a process has complete rows, and of the columns what its rows say of them, which is merged.
    """
    among = processes(op.name, group)

    def at_home(found, gradients, dtype, times=1):
        """The gradients of this process from what all found; times: what those of rows are still multiplied by."""
        home = []
        for name, g in zip(_wanted(op, gradients), found):
            if name == "y":
                home.append((shared_out(g.to(accumulation_dtype(dtype)), among) * times).to(dtype))
            elif name == "x":
                home.append(g * times)
            else:
                home.append(reduced(g, among) * times / among.size)
        return home

    def forward(x, y, scale, bias, options, reduction, gradients):
        check_even("rows", x, among)
        whole, placed = gathered(y, among), _placed(op, options, x.shape[0], among)
        if not op.saved:
            loss, *found = op.forward(x, whole, scale, bias, placed, reduction, gradients)
            return [total(loss, among), *at_home(found, gradients, x.dtype, among.size)]
        _, rows, columns = op.forward(x, whole, scale, bias, placed, reduction, 0)
        columns = log_sums(columns, among)
        own = columns[among.first(x.shape[0]) :][: x.shape[0]].double()
        normaliser, similarity = rows.double().unbind(1)
        loss = total(((normaliser + own) / 2 - similarity).sum(), among) / whole.shape[0]
        loss = loss.to(rows.dtype)
        if not gradients:
            return [loss, rows, columns]
        return [loss, rows, columns, *derivative(
            loss.new_ones(()), (rows, columns), x, y, whole, scale, bias, placed, reduction, gradients
        )]  # fmt: skip

    def derivative(grad_output, saved, x, y, whole, scale, bias, placed, reduction, gradients):
        found = op.backward(grad_output * among.size, *saved, x, whole, scale, bias, placed, reduction, gradients)
        return at_home(found, gradients, x.dtype)

    def backward(grad_output, *arguments):
        *saved, x, y, scale, bias, options, reduction, gradients = arguments
        placed = _placed(op, options, x.shape[0], among)
        return derivative(grad_output, saved, x, y, gathered(y, among), scale, bias, placed, reduction, gradients)

    return _of_all(op, _reference(op, ("x", "y"), group), forward, backward)


def across_one_set(op: Op, group) -> Op:
    """The op of a labelled set of rows spread over a group's processes, which gather rows, labels and statistics."""
    among = processes(op.name, group)

    def forward(features, labels, _, __, options, reduction, gradients):
        check_even("rows", features, among)
        whole = gathered(features, among), gathered(labels, among)
        placed = _placed(op, options, features.shape[0], among)
        sum_of_rows, statistics = op.forward(features, labels, *whole, placed, SUM, 0)
        statistics = gathered(statistics, among)
        loss = total(sum_of_rows, among) / (statistics[:, 1] != 0).sum()
        if not gradients:
            return [loss, statistics]
        one = loss.new_full((), among.size)
        return [loss, statistics, *op.backward(one, statistics, features, labels, *whole, placed, MEAN, gradients)]

    def backward(grad_output, statistics, features, labels, _, __, options, reduction, gradients):
        whole = gathered(features, among), gathered(labels, among)
        placed = _placed(op, options, features.shape[0], among)
        grad_output = grad_output * among.size
        return op.backward(grad_output, statistics, features, labels, *whole, placed, MEAN, gradients)

    return _of_all(op, _reference(op, ("features", "labels"), group), forward, backward)


def _of_all(op: Op, reference: Callable, forward: Callable, backward: Callable) -> Op:
    """An op with the tensors, options and results of `op`."""
    return Op(
        op.name, reference, forward, backward, tensors=op.tensors, differentiable=op.differentiable,
        options=op.options, losses=op.losses, saved=op.saved,
    )  # fmt: skip

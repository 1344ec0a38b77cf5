"""What losses with a product in them share: the product in plain PyTorch, unit rows, checks, their own options."""

from __future__ import annotations

import numbers

import torch

from .. import _checks as check
from .. import _op
from .._autograd import PLAIN, only_plain, runs_plainly
from .._op import accumulation_dtype, autocasts, without_autocast
from .._options import Flag, Number, Option


class ForOperands:
    """What does not travel: it changes the op's tensors."""

    for_operands = True

    def wire_names(self, argument):
        return ()

    def encode(self, value):
        return ()


class OperandFlag(ForOperands, Flag):
    """A flag for `operands` alone."""


class OperandNumber(ForOperands, Number):
    """A number that `operands` makes a tensor of, or the tensor itself."""

    def __init__(self, low=-torch.inf, high=torch.inf, **options):
        super().__init__(low, high, none=1, or_tensor=True, takes_none=False, **options)


TEMPERATURE = Number(low=0, open=True, none=1, or_tensor=True, takes_none=False)


class Group(Option):
    """The processes that a loss is spread over: an argument of `across`, never read as an option.

    names: of the numbers that travel with it and are 0 without.
    """

    for_operands = True
    annotation = "ProcessGroup | DeviceMesh | None"

    def __init__(self, *names: str):
        self.names = names

    def wire_names(self, argument):
        return self.names

    def read(self, what, value, dtype, dims):
        if value is not None:
            raise ValueError(f"{what} to be None, got {type(value).__name__}")
        return None

    def encode(self, value):
        return (0.0,) * len(self.names)


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b, which autocast leaves alone, in derivatives too."""
    if autocasts(a) and not torch.compiler.is_compiling():
        return _Product.apply(a, b)
    with without_autocast(a):
        return a @ b


class _Product(torch.autograd.Function):
    """The product of two matrices under autocast, whose derivatives are taken under it as well."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a, b):
        with without_autocast(a):
            return a @ b

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        a, b = ctx.saved_tensors
        return product(gradient, b.mT), product(a.mT, gradient)

    @staticmethod
    def jvp(ctx, tangent_a, tangent_b):
        a, b = ctx.saved_tensors
        parts = [product(t, other) for t, other in ((tangent_a, b),) if t is not None]
        parts += [product(other, t) for other, t in ((a, tangent_b),) if t is not None]
        return sum(parts)


def joined(*parts: torch.Tensor) -> torch.Tensor:
    """One below the other; under autocast on the CPU torch refuses it for float16."""
    with without_autocast(parts[0]):
        return torch.cat(parts)


LEAST_NORM = 1e-12


class _UnitRows(torch.autograd.Function):
    """torch's normalize by a kernel for each direction."""

    @staticmethod
    def forward(ctx, x):
        rows, norms = _op.unit_rows(x)
        ctx.save_for_backward(x, rows, norms)
        return rows

    @staticmethod
    def backward(ctx, grad_output):
        x, rows, norms = ctx.saved_tensors
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or only_plain((grad_output,)):
            return _gradient_of_unit_rows(grad_output, x.to(rows.dtype)).to(x.dtype)
        return _op.unit_rows_backward(grad_output, rows, norms, x)


def _norms(x):
    """Of the rows, and which of them are constants; 0 has no second derivative of its norm."""
    constant = torch.linalg.vector_norm(x, dim=-1, keepdim=True) < LEAST_NORM
    norms = torch.linalg.vector_norm(torch.where(constant, 1, x), dim=-1, keepdim=True)
    return torch.where(constant, LEAST_NORM, norms), constant


def _gradient_of_unit_rows(grad_output, x):
    norms, constant = _norms(x)
    rows = x / norms
    along = torch.where(constant, 0, (grad_output * rows).sum(-1, keepdim=True))
    return torch.addcmul(grad_output, rows, along, value=-1) / norms


def unit_rows(x: torch.Tensor) -> torch.Tensor:
    """The rows over their norms, in the accumulation dtype; a norm counts as 1e-12 at least."""
    if type(x) in PLAIN and runs_plainly() and (x.is_cpu or (x.is_cuda and _op.HAS_CUDA_KERNELS)):
        return _UnitRows.apply(x) if x.requires_grad else _op.unit_rows(x)[0]
    with without_autocast(x):
        x = x.to(accumulation_dtype(x.dtype))
        return x / _norms(x)[0]


def check_scalar(name, argument, value, first):
    """A number, which its option checks, or a floating tensor without dimensions."""
    if isinstance(value, torch.Tensor):
        check.shaped(name, argument, value, (), first, check.FLOATING)
    elif value is None:
        raise TypeError(f"{name}: expected {argument} to be a number or a tensor, got NoneType")


def scalar(value, first: torch.Tensor) -> torch.Tensor:
    """A number or a tensor as a tensor in the accumulation dtype of `first`."""
    dtype = accumulation_dtype(first.dtype)
    if isinstance(value, torch.Tensor):
        return value.to(dtype)
    if isinstance(value, numbers.Real) and not isinstance(value, (int, float)):
        value = float(value)  # a fraction
    return first.new_full((), value, dtype=dtype)


def check_same_dtype(name, argument, value, first, of="input"):
    """A tensor of the dtype of `first`, with which it is multiplied."""
    check.tensor(name, argument, value)
    if value.dtype != first.dtype:
        wanted, given = (str(t.dtype).removeprefix("torch.") for t in (first, value))
        raise TypeError(f"{name}: expected {argument} of the dtype of {of}, {wanted}, got {given}")
    check.same_device(name, argument, value, first)

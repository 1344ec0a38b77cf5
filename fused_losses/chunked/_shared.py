"""What losses with a product in them share: the product itself in plain PyTorch, unit rows, checks, their own options."""

from __future__ import annotations

import torch

from .. import _checks as check
from .._op import NONE, accumulation_dtype
from .._options import Flag


class Operand(Flag):
    """A flag for `operands` alone: it changes the op's tensors and does not travel."""

    def wire_names(self, argument):
        return ()

    def encode(self, value):
        return ()


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b, which autocast leaves alone."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def unit_rows(x: torch.Tensor) -> torch.Tensor:
    """The rows over their norms, in the accumulation dtype; a norm counts as 1e-12 at least."""
    with torch.autocast(x.device.type, enabled=False):
        return torch.nn.functional.normalize(x.to(accumulation_dtype(x.dtype)), dim=-1)


def leading_shape(tensors, options, reduction):
    """The first tensor's shape without its last dimension for "none", else a scalar."""
    return tensors[0].shape[:-1] if reduction == NONE else ()


def check_same_dtype(name, argument, value, first, of="input"):
    """A tensor of the dtype of `first`, with which it is multiplied."""
    check.tensor(name, argument, value)
    if value.dtype != first.dtype:
        wanted, given = (str(t.dtype).removeprefix("torch.") for t in (first, value))
        raise TypeError(f"{name}: expected {argument} of the dtype of {of}, {wanted}, got {given}")
    check.same_device(name, argument, value, first)

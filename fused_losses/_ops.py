"""Loads the compiled libraries and holds one `Op` for each loss.

`_C` (schemas and CPU kernels) is always there; `_C_cuda` only where the build found CUDA. Every op takes
`(*tensors, options, reduction, gradients)` and returns `[*losses, *saved, *gradients]`; its `_backward` twin takes
`(*grad_outputs, *saved, *tensors, options, reduction, gradients)` and returns the gradients asked for.
`gradients` is a bit mask over the tensors, `options` the loss's numbers in the order of csrc/losses.h.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Callable

import torch

from . import _C  # noqa: F401  (registers the schemas and the CPU kernels)

NONE, MEAN, SUM, BATCHMEAN = range(4)
REDUCTIONS = {"none": NONE, "mean": MEAN, "sum": SUM}
DIVERGENCE_REDUCTIONS = {**REDUCTIONS, "batchmean": BATCHMEAN}

HAS_CUDA_KERNELS = importlib.util.find_spec("._C_cuda", __package__) is not None
if HAS_CUDA_KERNELS:
    try:
        importlib.import_module("._C_cuda", __package__)
    except (ImportError, OSError):  # built with CUDA, imported under a torch without it
        HAS_CUDA_KERNELS = False

_NAMESPACE = torch.ops.fused_losses


class Op:
    """One loss: its reference, its compiled op, the backward twin and the facts the callers need."""

    __slots__ = (
        "name", "reference", "tensors", "differentiable", "shape", "losses", "saved", "saved_shapes",
        "forward", "backward", "run",
    )  # fmt: skip

    def __init__(
        self,
        reference: Callable,
        tensors: tuple[str, ...],
        shape: Callable,
        *,
        differentiable: tuple[str, ...] = ("input",),
        losses: int = 1,
        saved: int = 0,
        saved_shapes: Callable | None = None,
        name: str | None = None,
    ):
        """
        reference: the plain-PyTorch function, named `reference_<op>` unless `name` gives the op's name.
        tensors: names of its tensor arguments in the op's order; `differentiable`: those whose gradient the kernels
            compute, a gradient for any other takes the reference.
        shape(tensors, options, reduction): shape of each of the `losses` results.
        saved, saved_shapes: number and shapes of the small tensors kept for the backward.
        """
        self.name = name or reference.__name__.removeprefix("reference_")
        self.reference, self.tensors, self.shape = reference, tensors, shape
        self.differentiable = sum(1 << tensors.index(name) for name in differentiable)  # bit mask
        self.losses, self.saved, self.saved_shapes = losses, saved, saved_shapes
        self.forward = getattr(_NAMESPACE, self.name).default
        self.run = self.forward._op  # for eager mode: the overload's own call is a Python frame more
        self.backward = getattr(_NAMESPACE, f"{self.name}_backward").default
        torch.library.register_fake(f"fused_losses::{self.name}", self._fake_forward)
        torch.library.register_fake(f"fused_losses::{self.name}_backward", self._fake_backward)

    def call_reference(self, tensors, keywords):
        """The reference on the op's tensors and the loss's other arguments; a keyword stands for a tensor not given."""
        return self.reference(**{**dict(zip(self.tensors, tensors)), **keywords})

    def _fake_gradients(self, tensors, gradients):
        return [t.new_empty(t.shape) for i, t in enumerate(tensors) if t is not None and gradients >> i & 1]

    def _fake_forward(self, *arguments):
        *tensors, options, reduction, gradients = arguments
        first = tensors[0]
        dtype = accumulation_dtype(first.dtype)
        shape = self.shape(tensors, options, reduction)
        out = [first.new_empty(shape, dtype=dtype) for _ in range(self.losses)]
        if self.saved:
            out += [first.new_empty(s, dtype=dtype) for s in self.saved_shapes(tensors, options, reduction)]
        return out + self._fake_gradients(tensors, gradients)

    def _fake_backward(self, *arguments):
        *tensors, _options, _reduction, gradients = arguments
        return self._fake_gradients(tensors[self.losses + self.saved :], gradients)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32: the dtype of every loss and of every sum."""
    return torch.float64 if dtype is torch.float64 else torch.float32


scale_ = _NAMESPACE.scale_.default


@torch.library.register_fake("fused_losses::scale_")
def _fake_scale_(gradient, grad_output):
    return None

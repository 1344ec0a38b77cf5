"""Checks of tensors shared by all losses: one sentence with the expected and the given, before any kernel runs.

A check only checks. The first tensor of a loss is checked by `tensor` before any of the others is called.
"""

from __future__ import annotations

import torch
from torch import Tensor, strided
from torch.masked import MaskedTensor

from ._torch_private import transforms_active

FLOATING = frozenset({torch.float32, torch.float64, torch.float16, torch.bfloat16})
CLASS_INDEX = frozenset({torch.uint8, torch.int32, torch.int64})
DENSE = FLOATING | CLASS_INDEX | {torch.bool}  # what a kernel reads as numbers
SIGNED = DENSE - {torch.bool, torch.uint8}


def tensor(name: str, argument: str, value, dtypes: frozenset = FLOATING) -> None:
    """`value` is a dense tensor of one of `dtypes`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected {argument} to be a tensor, got {type(value).__name__}")
    if value.dtype not in dtypes:
        listed = ", ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
        raise TypeError(f"{name}: expected {argument} of dtype {listed}, got {str(value.dtype).removeprefix('torch.')}")
    if value.layout is not strided or value.is_nested or type(value) is MaskedTensor:
        _refuse_layout(name, argument, value)


def _refuse_layout(name: str, argument: str, value: torch.Tensor) -> None:
    """Sparse, MKL-DNN, nested and masked tensors; a jagged one is a tensor subclass, which the references serve."""
    if value.layout is not torch.jagged:
        given = "a nested tensor" if value.is_nested else str(value.layout).removeprefix("torch.")
        given = "a masked tensor" if type(value) is MaskedTensor else given
        raise TypeError(f"{name}: expected {argument} to be a dense tensor, got {given}")


def same_device(name: str, argument: str, value: torch.Tensor, first: torch.Tensor) -> None:
    """`value` lies on the device of `first`."""
    if value.device != first.device:
        raise ValueError(f"{name}: expected {argument} on {first.device}, got {value.device}")


def shaped(name: str, argument: str, value, shape: tuple, first: torch.Tensor, dtypes: frozenset = DENSE) -> None:
    """A tensor of exactly `shape`, of one of `dtypes`, on the device of `first`."""
    tensor(name, argument, value, dtypes)
    if value.shape != shape:
        raise ValueError(f"{name}: expected {argument} of shape {tuple(shape)}, got {tuple(value.shape)}")
    if value.device != first.device:
        same_device(name, argument, value, first)


def alike(name: str, argument: str, value, first: torch.Tensor, dtypes: frozenset = DENSE) -> None:
    """A tensor of the shape and on the device of `first`, of one of `dtypes`."""
    tensor(name, argument, value, dtypes)
    if value.shape != first.shape or not ((value.is_cpu and first.is_cpu) or value.device == first.device):
        shaped(name, argument, value, first.shape, first, dtypes)


def class_indices(name: str, target: torch.Tensor, ignore_index: float | None) -> None:
    """A target of class indices, one of which may be ignored."""
    tensor(name, "target of class indices", target, CLASS_INDEX)
    if ignore_index is not None and ignore_index != int(ignore_index):
        raise ValueError(f"{name}: expected ignore_index to be an integer with class indices, got {ignore_index}")


def mask(name: str, argument: str, value: Tensor) -> None:
    """Integers that are 0 or 1, as masks have to be; looked at where a kernel does not."""
    if value.dtype not in CLASS_INDEX or value.is_meta or transforms_active():
        return
    compiling, wrong = torch.compiler.is_compiling(), (value != 0) & (value != 1)
    expected = f"{name}: expected an integer {argument} to be 0 or 1"
    if compiling or value.is_cuda:  # nobody waits for a GPU
        torch._assert_async(~wrong.any(), expected)
    elif type(value) is Tensor and wrong.any():
        raise RuntimeError(f"{expected}, got {value[wrong][0]}")


def broadcastable(name: str, argument: str, value, input: torch.Tensor) -> None:
    """A tensor that broadcasts to the shape of `input` as in torch."""
    tensor(name, argument, value, DENSE)
    same_device(name, argument, value, input)
    shape, given = input.shape, value.shape
    trailing = shape[len(shape) - len(given) :] if len(given) <= len(shape) else None
    if trailing is None or any(g != s and g != 1 for g, s in zip(given, trailing)):
        raise ValueError(f"{name}: expected {argument} to broadcast to shape {tuple(shape)}, got {tuple(given)}")

"""Argument checks shared by all losses: one sentence with the expected and the given, before any kernel runs."""

from __future__ import annotations

import torch

from ._ops import DIVERGENCE_REDUCTIONS, REDUCTIONS

FLOATING = frozenset({torch.float32, torch.float64, torch.float16, torch.bfloat16})
DENSE = FLOATING | {torch.bool, torch.uint8}
CLASS_INDEX = frozenset({torch.uint8, torch.int32, torch.int64})
DENSE_OR_INDEX = DENSE | CLASS_INDEX


def choice(name: str, argument: str, value, choices: dict):
    """The op's number for `value`, a key of `choices`."""
    try:
        return choices[value]
    except (KeyError, TypeError):
        listed = ", ".join("None" if key is None else f'"{key}"' for key in choices)
        raise ValueError(f"{name}: expected {argument} to be one of {listed}, got {value!r}") from None


def reduction_code(name: str, reduction: str, choices: dict[str, int] = REDUCTIONS) -> int:
    """The op's integer for `reduction`."""
    return choice(name, "reduction", reduction, choices)


def divergence_reduction_code(name: str, reduction: str) -> int:
    """As `reduction_code`, with "batchmean"."""
    return reduction_code(name, reduction, DIVERGENCE_REDUCTIONS)


def tensor(name: str, argument: str, value, dtypes: frozenset = FLOATING) -> None:
    """`value` is a tensor of one of `dtypes`."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: expected {argument} to be a tensor, got {type(value).__name__}")
    if value.dtype not in dtypes:
        listed = ", ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
        raise TypeError(f"{name}: expected {argument} of dtype {listed}, got {str(value.dtype).removeprefix('torch.')}")
    if value.layout is not torch.strided or value.is_nested:
        _refuse_layout(name, argument, value)


def _refuse_layout(name: str, argument: str, value: torch.Tensor) -> None:
    """Sparse, MKL-DNN and nested tensors; a jagged one is a tensor subclass, which the references serve."""
    if value.layout is not torch.jagged:
        given = "a nested tensor" if value.is_nested else str(value.layout).removeprefix("torch.")
        raise TypeError(f"{name}: expected {argument} to be a dense tensor, got {given}")


def same_device(name: str, argument: str, value: torch.Tensor, first: torch.Tensor) -> None:
    """`value` lies on the device of `first`."""
    if value.device != first.device:
        raise ValueError(f"{name}: expected {argument} on {first.device}, got {value.device}")


def pair(
    name: str, input: torch.Tensor, target: torch.Tensor, dtypes: frozenset = DENSE, names=("input", "target")
) -> None:
    """A floating input and a second tensor of its shape and device."""
    tensor(name, names[0], input)
    tensor(name, names[1], target, dtypes)
    if target.shape != input.shape:
        raise ValueError(f"{name}: expected {names[1]} of shape {tuple(input.shape)}, got {tuple(target.shape)}")
    if target.device != input.device:
        same_device(name, names[1], target, input)


def shaped(name: str, argument: str, value, shape: tuple, first: torch.Tensor, dtypes: frozenset = DENSE) -> None:
    """A tensor of exactly `shape`, of one of `dtypes`, on the device of `first`."""
    tensor(name, argument, value, dtypes)
    if value.shape != shape:
        raise ValueError(f"{name}: expected {argument} of shape {tuple(shape)}, got {tuple(value.shape)}")
    same_device(name, argument, value, first)


def broadcastable(name: str, argument: str, value: torch.Tensor | None, input: torch.Tensor) -> torch.Tensor | None:
    """`value` broadcasts to the shape of `input` as in torch; returned in a form the kernels read.

    They read a value of one element, of the input's shape, or whose dimensions other than one form a single run that
    matches the input's; any other is expanded here.
    """
    if value is None:
        return None
    tensor(name, argument, value, DENSE)
    same_device(name, argument, value, input)
    shape, given = input.shape, value.shape
    trailing = shape[len(shape) - len(given) :] if len(given) <= len(shape) else None
    if trailing is None or any(g != 1 and g != s for g, s in zip(given, trailing)):
        raise ValueError(f"{name}: expected {argument} to broadcast to shape {tuple(shape)}, got {tuple(given)}")
    spans = [i for i, g in enumerate(given) if g != 1]
    if spans and any(given[i] != trailing[i] for i in range(spans[0], spans[-1] + 1)):
        return value.expand(shape)
    return value


def integer(name: str, argument: str, value, low: int | None = None) -> None:
    """`value` is an int, at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected {argument} to be an integer, got {type(value).__name__}")
    if low is not None and value < low:
        raise ValueError(f"{name}: expected {argument} >= {low}, got {value}")


def flag(name: str, argument: str, value) -> None:
    """`value` is a bool: a string or a tensor is no choice."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected {argument} to be True or False, got {value!r}")


INFINITY = float("inf")
_NUMBERS = frozenset({int, float})


def number(name: str, argument: str, value, low: float = -INFINITY, high: float = INFINITY, *, open_low=False):
    """`value` is a finite-or-infinite real number in [low, high], or in (low, high] with `open_low`."""
    if type(value) in _NUMBERS and low < value <= high:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected {argument} to be a number, got {type(value).__name__}")
    if not (low < value if open_low else low <= value) or not value <= high:
        left = f"> {low:g}" if open_low else f">= {low:g}"
        wanted = left if high == INFINITY else f"{left} and <= {high:g}"
        raise ValueError(f"{name}: expected {argument} {wanted}, got {value!r}")

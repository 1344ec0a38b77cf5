"""A user's function as it was read: the one formula of the compiled code and of PyTorch where that does not serve."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from .expressions import Expr, evaluate, make, node
from .tracer import differentiate, trace

_now = threading.local()


@contextmanager
def as_written() -> Iterator[None]:
    """Inside, a Formula that is called runs the user's function."""
    _now.written = True
    try:
        yield
    finally:
        _now.written = False


class Formula:
    """A function of `tensors` and options, with their defaults, read once for each accumulation dtype."""

    def __init__(self, name: str, function: Callable, tensors: Sequence[str], options: dict[str, float]):
        self.name, self.function, self.tensors, self.options = name, function, tensors, options
        self.known: dict[torch.dtype, Expr] = {}

    def read(self, dtype: torch.dtype) -> Expr:
        found = self.known[dtype] = trace(self.name, self.function, self.tensors, self.options, dtype)
        return found

    def slopes(self, value: Expr, wanted: Sequence[str]) -> list[Expr]:
        return differentiate(value, wanted, self.function)

    def with_slope(self, dtype: torch.dtype) -> list[Expr]:
        """The value of a function of log p and p, and its derivative by log p, by which p has the derivative p."""
        value = self.read(dtype)
        by_log, by_p = self.slopes(value, self.tensors)
        return [value, make("add", by_log, make("mul", by_p, node("tensor", self.tensors[1])))]

    def __call__(self, *values: torch.Tensor, **given: float) -> torch.Tensor:
        """By PyTorch, of tensors of one shape and the options among `given`; what was read in float64 serves any."""
        options, first = as_read(given, self.options), values[0]
        if getattr(_now, "written", False):
            return self.function(*values, **options)
        value = self.known.get(first.dtype, self.known[torch.float64])
        found = evaluate(value, {**dict(zip(self.tensors, values)), **options})
        if not isinstance(found, torch.Tensor):
            return torch.full_like(first, found)
        return found.to(first).expand_as(first)  # of options alone it has no dimensions


def as_read(given: dict, options: Sequence[str]) -> dict:
    """Options as a function was read with them, as tensors without dimensions: torch.log of one is no error."""
    return {o: torch.full((), given[o], dtype=torch.float64) for o in options}

"""`custom.check`: what a custom loss does at extremes, its gradient by differences, float32 beside float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck

from .formula import as_written

EXTREMES = (0.0, 1e-30, -1e-30, 1.0, -1.0, 30.0, -30.0, 1e3, -1e3, 1e10, -1e10)
# Rounding of a float32 formula of some tens of operations; a loss that cancels is far beyond it.
ALLOWED = {torch.float64: 1e-9, torch.float32: 1e-4}


@dataclass(frozen=True)
class Finding:
    """One row of a report: `what` was tried `where`, and what was `found`."""

    what: str
    where: str
    found: str
    good: bool


@dataclass
class Report:
    """What `check` found. `good`: nothing is wrong; `str` is the table."""

    loss: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return all(f.good for f in self.findings)

    def __str__(self) -> str:
        rows = [("check", "where", "found", "")]
        rows += [(f.what, f.where, f.found, "ok" if f.good else "WRONG") for f in self.findings]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
        return "\n".join([f"{self.loss}: {'nothing wrong' if self.good else 'not as it should be'}", *lines])


def check(loss: Callable, *example: torch.Tensor, **options) -> Report:
    """Tries a custom loss and prints what is wrong and where, as a table.

    loss: of this module. example: its tensors, a few dozen elements of usual values; options: as the loss takes them.

    - compiled: value and gradient in float64 beside the formula as written, and float32 beside float64;
    - differences: gradients and second derivatives beside finite differences, in float64;
    - extremes: each tensor that has a gradient at 0, +-1e-30, +-1, +-30, +-1e3 and +-1e10, in float32; at nothing
      below 0 if its example has nothing there, and then at nothing above 1 if that has nothing there either. Wrong is
      a loss or gradient that is NaN, and an infinite one where the formula as written is finite in float64.

    Returns the report: `report.good`, `report.findings`. TypeError for what is no custom loss or has no gradient.
    """
    if not hasattr(loss, "custom"):
        raise TypeError(f"check: expected a loss of fused_losses.custom, got {type(loss).__name__} {_name(loss)}")
    tried = _Trial(loss, example, options)
    report = Report(_name(loss))
    for findings in (tried.compiled, tried.differences, tried.extremes):
        report.findings += findings()
    print(report)
    return report


def _name(loss: Callable) -> str:
    return getattr(loss, "__name__", repr(loss))


class _Trial:
    """A loss, its example in float64, and which tensors of it have a gradient."""

    def __init__(self, loss: Callable, example: Sequence[torch.Tensor], options: dict):
        self.loss, self.options = loss, options
        self.example = [t.detach().double() if t.is_floating_point() else t for t in example]
        self.names = loss.tensors[: len(example)]
        op, loss_of_none = loss.op, {**options, "reduction": "none"}
        loss(*self.example, **loss_of_none)  # checks the arguments, and compiles
        slots = [op.tensors.index(n) for n in self.names]
        self.places = [i for i, s in enumerate(slots) if op.differentiable >> s & 1 and example[i].is_floating_point()]
        if not self.places:
            raise TypeError(f"check: expected a compiled loss with a gradient, got {_name(loss)} as plain PyTorch")

    def run(self, tensors: Sequence[torch.Tensor], dtype: torch.dtype, written: bool = False) -> list[torch.Tensor]:
        """Losses and gradients of their sum, of the compiled loss or of the formula as `written`."""
        given = [t.to(dtype, copy=True) if t.is_floating_point() else t for t in tensors]
        wanted = [given[i].requires_grad_() for i in self.places]
        options = {**self.options, "reduction": "none"}
        if written:
            defaults = {**self.loss.op.reference.__kwdefaults__, **options}
            with as_written():
                losses = self.loss.op.reference(**dict(zip(self.names, given)), **defaults)
        else:
            losses = self.loss(*given, **options)
        return [losses.detach(), *torch.autograd.grad(losses.sum(), wanted)]

    def results(self) -> list[str]:
        return ["loss", *(f"gradient of {self.names[i]}" for i in self.places)]

    def compiled(self) -> Iterator[Finding]:
        wide = self.run(self.example, torch.float64, written=True)
        for what, dtype in (("float64 beside the formula", torch.float64), ("float32 beside float64", torch.float32)):
            found = self.run([t.to(dtype) if t.is_floating_point() else t for t in self.example], dtype)
            for name, a, b in zip(self.results(), found, wide):
                error = _error(a.double(), b)
                yield Finding(what, name, f"differs by {error:.1e} of its size", error <= ALLOWED[dtype])

    def differences(self) -> Iterator[Finding]:
        wide = [t.clone().requires_grad_(i in self.places) for i, t in enumerate(self.example)]
        call = lambda *x: self.loss(*x, **{**self.options, "reduction": "none"})  # noqa: E731
        for what, function in (
            ("gradient", gradcheck),
            ("second derivative", gradgradcheck),
        ):
            try:
                function(call, wide)
                found = "as finite differences"
            except GradcheckError as error:
                found = str(error).splitlines()[0].rstrip(",")
            yield Finding("differences", what, found, found.startswith("as"))

    def extremes(self) -> Iterator[Finding]:
        for i in self.places:
            wrong = [f for value in _within(self.example[i]) if (f := self.at(i, value))]
            yield from wrong
            if not wrong:
                yield Finding("extremes", self.names[i], "finite, or infinite as the formula is", True)

    def at(self, place: int, value: float) -> Finding | None:
        """What is wrong where all of one tensor is `value`."""
        tensors = [torch.full_like(t, value) if i == place else t for i, t in enumerate(self.example)]
        where = f"{self.names[place]} = {value:g}"
        found, wide = self.run(tensors, torch.float32), self.run(tensors, torch.float64, written=True)
        for name, a, b in zip(self.results(), found, wide):
            if a.isnan().any():
                return Finding("extremes", where, f"{name} is NaN", False)
            fits = b.abs() < torch.finfo(torch.float32).max
            if (a.isinf() & fits).any():
                return Finding("extremes", where, f"{name} is infinite, the formula in float64 is not", False)
        return None


def _within(example: torch.Tensor) -> Iterator[float]:
    """The extremes of the domain that an example shows: all numbers, those from 0 on, or probabilities."""
    low = 0.0 if bool((example >= 0).all()) else -torch.inf
    high = 1.0 if low == 0 and bool((example <= 1).all()) else torch.inf
    return (value for value in EXTREMES if low <= value <= high)


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, in units of the largest value."""
    if not expected.numel():
        return 0.0
    size = expected.abs().max().clamp(min=1e-30)
    return ((found - expected).abs().max() / size).item()

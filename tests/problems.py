"""The machine behind the generated tests: makes a loss's arguments, runs it, and hands out its gradients.

`Maker` draws tensors, `Case` is one loss, `Variant` one choice of its options, `Problem` one set of arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from fused_losses import functional as F
from fused_losses import reference


class Maker:
    """Draws tensors in float64 on the CPU and rounds them, so that every dtype and device sees the same numbers."""

    def __init__(self, dtype=torch.float32, device="cpu", seed=0):
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator().manual_seed(seed)

    def place(self, values: torch.Tensor, dtype=None) -> torch.Tensor:
        return values.to(dtype or self.dtype).to(self.device)

    def normal(self, shape, scale=1.0):
        return self.place(torch.randn(tuple(shape), generator=self.generator, dtype=torch.float64) * scale)

    def uniform(self, shape, low=0.0, high=1.0):
        drawn = torch.rand(tuple(shape), generator=self.generator, dtype=torch.float64)
        return self.place(low + (high - low) * drawn)

    def integers(self, shape, low, high, dtype=torch.int64):
        """In [low, high)."""
        return self.place(torch.randint(low, high, tuple(shape), generator=self.generator), dtype)

    def hard(self, shape, dtype=None):
        """0 or 1."""
        return self.integers(shape, 0, 2, dtype or self.dtype)

    def distribution(self, shape, dim):
        drawn = torch.randn(tuple(shape), generator=self.generator, dtype=torch.float64)
        return self.place(drawn.softmax(dim))

    def ignoring(self, target, index):
        """About a quarter of `target` replaced by `index`, never the first."""
        if index is None or target.numel() < 2:
            return target
        chosen = torch.rand(target.shape, generator=self.generator) < 0.25
        chosen.view(-1)[0] = False
        return target.masked_fill(chosen.to(self.device), index)


@dataclass(frozen=True)
class Variant:
    """One choice of options. A callable option `(maker, shape) -> tensor` is drawn; `how` steers the case's `make`."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    how: dict[str, Any] = field(default_factory=dict)


def variant(name: str, how: dict | None = None, **options) -> Variant:
    return Variant(name, options, how or {})


GROUPS = {
    "elementwise": "a result for each element; tensors of any shape, of no dimension too",
    "probabilities": "the input lies in [0, 1]",
    "classes": "a softmax over dim 1 of one input",
    "focal": "an exponent gamma >= 0 on what is still wrong",
    "overlap": "ratios of sums over regions",
    "compound": "an overlap loss plus another",
    "ranking": "lists of scores, judged by NDCG",
    "mahalanobis": "the mean and the factor of a Gaussian among its tensors",
    "products": "matrix products or triangular solves of torch in it: no bit-equality over threads, a tile more memory",
    "floating_target": "the target is no mask: bool and uint8 mean nothing or are refused",
    "signed": "elements of both signs, of order one at most: their sum may cancel",
    "representative": "a few that stand for their families where all would take too long",
}


@dataclass(frozen=True)
class Case:
    """One loss.

    make(maker, shape, variant) -> its tensors, in the function's order.
    groups: what tests that are about some losses only choose it by.
    fused: arguments whose gradient the kernel computes; constant: floating arguments without a gradient; logits:
    arguments of any magnitude.
    shape, tiny: for most tests, and for numerical derivatives; sizes: vector tails, chunk borders, long rows, threads;
    one: the smallest; big: several threads; large: for memory; hollow: rows without elements, None if meaningless.
    dims, more_dims: for drawn shapes, the least and largest of each dimension, and how many more may follow.
    tile: arguments that grow with dim 0 of `shape`.
    broadcast: options that broadcast to the input's shape; bad: (options, words of the message) refused.
    ranges: of numeric options, for drawn ones; free: arguments beside the logits that may be of any magnitude.
    workspace: bytes that a call may take for itself at shape `large`.
    own_dtype: options that are no weights: of the input's dtype, or floating at least.
    free_rows: tensors of which no other says how many rows they have.
    """

    name: str
    make: Callable[[Maker, tuple, Variant], dict[str, torch.Tensor]]
    shape: tuple[int, ...]
    tiny: tuple[int, ...]
    sizes: tuple[tuple[int, ...], ...]
    big: tuple[int, ...]
    one: tuple[int, ...]
    large: tuple[int, ...]
    hollow: tuple[int, ...] | None
    dims: tuple[tuple[int, int], ...]
    more_dims: int = 0
    groups: tuple[str, ...] = ()
    logits: tuple[str, ...] = ()
    fused: tuple[str, ...] = ("input",)
    constant: tuple[str, ...] = ()
    tile: tuple[str, ...] = ("input", "target")
    variants: tuple[Variant, ...] = ()
    reductions: tuple[str | None, ...] = ("none", "mean", "sum")
    broadcast: tuple[str, ...] = ()
    bad: tuple[tuple[dict, str], ...] = ()
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    free: tuple[str, ...] = ()
    workspace: int = 0
    own_dtype: tuple[str, ...] = ()
    free_rows: tuple[str, ...] = ()

    def __post_init__(self):
        unknown = set(self.groups) - set(GROUPS)
        assert not unknown, f"{self.name}: no such group: {unknown}"

    @property
    def function(self) -> Callable:
        return getattr(F, self.name)

    @property
    def reference(self) -> Callable:
        return getattr(reference, self.name)

    @property
    def all_variants(self) -> tuple[Variant, ...]:
        return (Variant("default"), *self.variants)

    def problem(self, variant=None, dtype=torch.float32, device="cpu", shape=None, seed=0) -> Problem:
        variant, shape = variant or Variant("default"), self.shape if shape is None else tuple(shape)
        maker = Maker(dtype, device, seed)
        made = self.make(maker, shape, variant)
        tensors = {n: t for n, t in made.items() if n not in variant.options}
        options = {k: v(maker, shape) if callable(v) else v for k, v in variant.options.items()}
        return Problem(self, tensors, options)

    def reduced(self) -> str | None:
        """A reduction to a scalar, if the loss has one."""
        return "mean" if "mean" in self.reductions else None


@dataclass
class Problem:
    """The arguments of one call: tensors by name, options by name (tensors among them)."""

    case: Case
    tensors: dict[str, torch.Tensor]
    options: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        return {**self.tensors, **self.options}

    @property
    def n_terms(self) -> int:
        return max(t.numel() for t in self.tensors.values())

    def terms(self, name: str | None = None, reduction: str | None = "none") -> int:
        """How many terms are summed in one element of the loss, or of the gradient of the argument `name`.

        One where a result is of its own element alone: elementwise losses without reduction, and their gradients.
        Elsewhere all of them: a bound, not the number.
        """
        alone = "elementwise" in self.case.groups and (reduction == "none" if name is None else name in self.case.fused)
        return 1 if alone else self.n_terms

    def floating(self) -> list[str]:
        """Names of the floating tensors that may require a gradient."""
        return [
            name
            for name, value in self.arguments.items()
            if isinstance(value, torch.Tensor) and value.is_floating_point() and name not in self.case.constant
        ]

    def map(self, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Problem:
        """A problem with every tensor changed."""

        def changed(arguments):
            return {k: change(k, v) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}

        return Problem(self.case, changed(self.tensors), changed(self.options))

    def double(self) -> Problem:
        """The same numbers in float64 on the CPU."""
        return self.map(lambda _, t: (t.double() if t.is_floating_point() else t).cpu())

    def leaves(self, names) -> Problem:
        """Fresh leaves, those in `names` requiring a gradient."""
        return self.map(lambda name, t: t.detach().clone().requires_grad_(name in names))

    def call(self, function: Callable | None = None, reduction: str | None = None, **override):
        arguments = {**self.arguments, **override}
        if reduction is not None:
            arguments["reduction"] = reduction
        return (function or self.case.function)(**arguments)


def as_tuple(result) -> tuple[torch.Tensor, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def differentiable(result) -> tuple[torch.Tensor, ...]:
    """The outputs that depend on what requires a gradient."""
    return tuple(part for part in as_tuple(result) if part.requires_grad)


def total(result) -> torch.Tensor:
    """One number from a loss or a tuple of losses, each element with a weight of its own."""
    parts = []
    for i, part in enumerate(as_tuple(result)):
        weights = torch.linspace(0.5, 1.5, max(part.numel(), 1), dtype=part.dtype, device=part.device)
        parts.append((part.reshape(-1) * weights[: part.numel()]).sum() * (1.0 + 0.25 * i))
    return sum(parts[1:], parts[0])


def incoming(outputs: tuple[torch.Tensor, ...], kind: str) -> list[torch.Tensor]:
    """A gradient for each output: "one", "scalar" (one random number), or "tensor" (random elements)."""
    if kind == "one":
        return [torch.ones_like(out) for out in outputs]
    maker = Maker(torch.float32, "cpu", seed=99)
    if kind == "scalar":
        return [torch.full_like(out, maker.uniform((), 0.5, 3.0).item()) for out in outputs]
    return [maker.normal(out.shape).to(out) for out in outputs]


def gradients(problem: Problem, names, function=None, reduction=None, kind="one"):
    """Outputs and gradients by name; the problem's tensors are copied first."""
    mine = problem.leaves(names)
    outputs = as_tuple(mine.call(function, reduction))
    parts = differentiable(outputs)
    grad_outputs = [g for out, g in zip(outputs, incoming(outputs, kind)) if out.requires_grad]
    found = torch.autograd.grad(parts, [mine.arguments[n] for n in names], grad_outputs)
    return [out.detach() for out in outputs], dict(zip(names, found, strict=True))


def expected(problem: Problem, names, reduction=None, kind="one"):
    """As `gradients`, by the reference in float64."""
    return gradients(problem.double(), names, problem.case.reference, reduction, kind)

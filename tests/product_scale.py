"""What the roundings of a loss with a matrix product are relative to: its logits, and the terms of its gradients."""

from __future__ import annotations

import inspect

import torch
from problems import Problem


def product_scale(problem: Problem) -> tuple[float, float]:
    """The largest that a logit, and a term of a gradient of one row, can be.

    A logit is s x·y, s = 1/temperature, the logit scale, or the steepest exponent; a term of its row's gradient s y,
    over |x| where the loss takes x / |x|. Both at least 1.
    """
    defaults = {n: p.default for n, p in inspect.signature(problem.case.function).parameters.items()}
    given = {**defaults, **problem.arguments}
    steep = max(1.0, *(_most(given.get(n, 0)) for n in ("logit_scale", "alpha", "beta")))
    steep = max(steep, 1 / float(given.get("temperature") or 1))
    rows = [t.double() for t in problem.tensors.values() if t.is_floating_point() and t.dim() == 2 and t.numel()]
    if given.get("normalize"):
        return steep + _most(given.get("logit_bias", 0)), steep / min([1.0, *(_least_norm(t) for t in rows)])
    norm = max((t.norm(dim=1).max().item() for t in rows), default=1.0)
    return max(1.0, steep * norm**2), steep * max(1.0, *(t.abs().max().item() for t in rows), 0)


def _most(value) -> float:
    return float(value.abs().max()) if isinstance(value, torch.Tensor) else float(abs(value or 0))


def _least_norm(t: torch.Tensor) -> float:
    norms = t.norm(dim=1)
    return norms[norms > 0].min().item() if norms.any() else 1.0

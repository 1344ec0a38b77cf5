"""`python -m fused_losses.info --check`: what runs each loss here, whether it is right, and how quick against eager."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from . import functional
from ._samples import sample

TOLERANCE = 1e-4  # far beyond rounding in float32, far below what a broken kernel shows
RUNS = 5


def devices() -> list[str]:
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def value_and_gradient(loss: Callable, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The mean loss, or the first of several, and its gradient for the first tensor."""
    result = loss(*tensors)
    value = (result[0] if isinstance(result, tuple) else result).mean()
    return [value.detach(), *torch.autograd.grad(value, tensors[:1])]


def error(found: torch.Tensor, right: torch.Tensor) -> float:
    """The largest difference over the largest right number."""
    return ((found.double() - right).abs().max() / right.abs().max()).item()


def milliseconds(loss: Callable, tensors: list[torch.Tensor]) -> float:
    """The fastest of a few runs, forward and backward, after one to warm up."""
    took = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        value_and_gradient(loss, tensors)
        if tensors[0].is_cuda:
            torch.cuda.synchronize()
        took.append(time.perf_counter() - start)
    return 1e3 * min(took[1:])


def check_loss(name: str, device: str) -> dict[str, str]:
    """One row of the report; the column "wrong" says what is not right."""
    loss = getattr(functional, name)
    row = dict.fromkeys(("loss", "device", "runs", "value error", "gradient error", "ms", "eager ms", "wrong"), "")
    row |= {"loss": name, "device": device}
    try:
        tensors = sample(name, device)
        explained = functional.explain(loss, *tensors)
        errors = list(map(error, value_and_gradient(loss, tensors), value_and_gradient(
            loss.reference, sample(name, device, torch.float64))))  # fmt: skip
        row |= {"runs": explained.kernel or "plain PyTorch", "wrong": explained.reason or ""}
        row |= {"value error": f"{errors[0]:.0e}", "gradient error": f"{errors[1]:.0e}"}
        row |= {"ms": f"{milliseconds(loss, tensors):.3f}", "eager ms": f"{milliseconds(loss.reference, tensors):.3f}"}
        if not max(errors) < TOLERANCE:
            row["wrong"] = f"expected errors below {TOLERANCE:g}"
    except Exception as failure:  # whatever a broken installation raises is what its user needs to read
        row["wrong"] = f"{type(failure).__name__}: {failure}"
    return row


def check() -> Iterator[dict[str, str]]:
    """A row for each loss on each device of this machine."""
    for device in devices():
        for name in functional.__all__:
            if hasattr(getattr(functional, name), "op"):
                yield check_loss(name, device)

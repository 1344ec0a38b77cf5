"""`explain`: whether a call runs a fused kernel or plain PyTorch, and why.

The call is followed through its own checks up to the choice between the two; that is `_autograd.reference_reason`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from . import _C
from ._autograd import reference_reason
from ._module import LossModule
from ._op import Op, Settings


@dataclass(frozen=True)
class Explanation:
    """What runs a call: the kernel named in `kernel`, or plain PyTorch (None) for `reason`."""

    loss: str
    device: str
    kernel: str | None
    reason: str | None

    def __str__(self) -> str:
        if self.reason is None:
            return f"{self.loss} on {self.device}: fused kernel ({self.kernel})"
        return f"{self.loss} on {self.device}: plain PyTorch, because {self.reason}"


def explain(loss: Callable[..., Any], /, *arguments: Any, **named: Any) -> Explanation:
    """Says whether `loss(*arguments, **named)`, called here and now, runs a fused kernel, and if not, why.

    Args:
        loss: a function of `fused_losses.functional`, a Module of one, or a loss of `fused_losses.custom`.
        arguments, named: those of the call; they are checked as in the call, and nothing else is computed.

    Returns:
        An `Explanation` with the fields `loss`, `device`, `kernel` (None for plain PyTorch) and `reason` (None
        for a kernel); its str() is one sentence.

    "Here and now": inside of a transform of torch.func, of `torch.no_grad()` and so on, the answer is that for there.
    Second derivatives (``create_graph=True``) of any loss are plain PyTorch, which is known only in the backward.
    Raises what the call raises for arguments that do not fit; TypeError on what is no loss of this library.

    Example:
        >>> x, t = torch.zeros(3, requires_grad=True), torch.ones(3)
        >>> weight = torch.ones(3, requires_grad=True)
        >>> F.explain(F.mse_loss, x, t).reason is None
        True
        >>> print(F.explain(F.mse_loss, x, t, weight=weight))
        mse_loss on cpu: plain PyTorch, because no kernel computes the gradient of weight, which is asked for
    """
    if isinstance(loss, LossModule):
        given = inspect.signature(loss.forward).bind(*arguments, **named)
        return explain(type(loss).function, **loss.arguments(*given.args, **given.kwargs))
    with_last_step = getattr(loss, "with_last_step", None)
    if with_last_step is None:
        raise TypeError(
            "explain: expected a function of fused_losses.functional, a Module of fused_losses or a custom loss, "
            f"got {loss!r}"
        )
    return with_last_step(_explanation)(*arguments, **named)


def _explanation(op: Op, tensors: Sequence[torch.Tensor | None], settings: Settings, compiling: bool) -> Explanation:
    """Of a call that has come as far as `_autograd.fused`."""
    asked = [t is not None and t.requires_grad and torch.is_grad_enabled() for t in tensors]
    needs = sum(1 << i for i, wanted in enumerate(asked) if wanted)
    device = next(t for t in tensors if t is not None).device
    reason = reference_reason(op, tensors, needs, compiling)
    kernel = None if reason else _C.cpu_isa() if device.type == "cpu" else "CUDA"
    return Explanation(op.name, str(device), kernel, reason)

"""How much memory a loss of all pairs and its gradients take: `measured`, in a fresh process of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys

_MIB = 2**20


def measured(loss: str, form: str, batch: int, features: int, given: int) -> tuple[float, bool]:
    """The MiB that a loss of the module `form` takes forward and backward, and whether `given` MiB suffice."""
    arguments = [loss, form, str(batch), str(features), str(given)]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; from {__name__} import main; main(*sys.argv[1:])", *arguments],
        capture_output=True, text=True, check=True, env=_environment(),
    )  # fmt: skip
    return tuple(json.loads(done.stdout))


def _environment() -> dict[str, str]:
    """This process's, with one thread and one arena, whose reservations would count as taken."""
    import os

    path = os.pathsep.join(p for p in sys.path if p)
    return {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "PYTHONPATH": path}


def _status(field: str) -> int:
    """A line of this process's status, in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


def _call(losses, loss: str, x, y):
    """A loss of the pairs (x, y), whose labels are ten in turn."""
    import torch

    if loss == "clip_loss":
        return losses.clip_loss(x, y, 10.0)
    return losses.sup_con_loss(torch.cat([x, y]), torch.arange(len(x)).remainder(10).repeat(2))


def main(loss: str, form: str, batch: str, features: str, given: str) -> None:
    """In the fresh process: prints [MiB, fits]."""
    import importlib
    import resource

    import torch

    losses = importlib.import_module(f"fused_losses.{form}")
    x, y = (torch.nn.functional.normalize(torch.randn(int(batch), int(features))).requires_grad_() for _ in range(2))

    def step(rows):
        _call(losses, loss, x[:rows], y[:rows]).backward()
        x.grad = y.grad = None

    step(16)  # what is loaded once
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_status("VmData") + int(given) * _MIB, hard))
    fits = False
    with contextlib.suppress(RuntimeError, MemoryError):
        step(len(x))
        fits = True
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    before = _status("VmRSS")
    step(len(x))
    print(json.dumps([(_status("VmHWM") - before) / _MIB, fits]))

"""One build in a process of its own, for benchmarks.compare: prepares a case, then times calls as it is asked to.

Two builds register the same operators and cannot share a process. Requests and answers are lines of JSON; the process
imports `fused_losses` from its working directory, and everything else of the benchmark from this tree.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
START = """
import sys
import fused_losses
sys.path.insert(0, {repository!r})
from benchmarks import worker
worker.serve()
"""


class Worker:
    """A build's process, seen from the comparison."""

    def __init__(self, root: Path, device: str = "cpu", threads: int = 2, isa: str = ""):
        environment = os.environ | {"PYTHONPATH": "", "PYTHONHASHSEED": "0"}
        if isa:
            environment["FUSED_LOSSES_CPU_ISA"] = isa
        self.process = subprocess.Popen(
            [sys.executable, "-c", START.format(repository=str(REPOSITORY))],
            cwd=root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.facts = self.ask(request="start", device=device, threads=threads)
        if Path(self.facts["package"]).resolve().parent != root.resolve():
            raise RuntimeError(f"compare: expected fused_losses of {root}, got {self.facts['package']}")

    def ask(self, **request):
        """The answer to one request; RuntimeError with its message if it failed."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the process of this build ended")
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Session:
    """The process itself: what it measures now, and on which clock."""

    def start(self, device: str, threads: int) -> dict:
        import torch

        import fused_losses

        from . import timing

        torch.set_num_threads(threads)
        self.device = torch.device(device)
        self.clock = timing.clock_of(self.device)
        module = getattr(fused_losses, "_C", None)
        return {
            "package": str(Path(fused_losses.__file__).parent),
            "isa": module.cpu_isa() if module and device == "cpu" else device,
        }

    def prepare(self, case: str, shape: list[int], dtype: str, seed: int) -> float:
        """Fresh tensors of a case; the sum of its loss and of its gradients, for a comparison of the two builds."""
        import torch

        from . import rivals
        from .cases import cases

        self.call = None  # the memory of the tensors before these is free to be used
        found = next(c for c in cases([case], self.device.type) if c.key == case)
        tensors = found.inputs(tuple(shape), getattr(torch, dtype), self.device, seed)
        form = rivals.forms(found, rivals.FUSED)[rivals.FUSED]
        call = rivals.make_call(found, form, tensors, rivals.Key(rivals.FUSED, dtype))
        self.call = rivals.with_ones(call)
        for _ in range(3):
            loss = self.call.run()
        parts = [loss, *(leaf.grad for leaf in self.call.leaves)]
        return sum(part.double().abs().sum().item() for part in parts)

    def measure(self, calls: int) -> float:
        """Nanoseconds of forward and backward: one call on flushed caches, or the median of a block of calls."""
        if calls == 1:
            self.clock.flush()
            samples = [self.clock.once(self.call)]
        else:
            samples = [self.clock.once(self.call) for _ in range(calls + 2)][2:]
        return statistics.median(sum(pair) for pair in self.clock.resolve(samples))


def serve() -> None:
    """Answer requests until standard input ends. What else prints goes to standard error."""
    import gc

    answers, sys.stdout = sys.stdout, sys.stderr
    session = Session()
    gc.disable()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(session, request.pop("request"))(**request)
        except Exception as error:  # an old build lacks a loss, or fails on it: the others are still compared
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

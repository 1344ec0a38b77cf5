"""All timing: rivals alternating call by call on cold caches, in blocks on hot ones, and whole loops of calls.

On the CPU the clock is `perf_counter_ns`, on CUDA pairs of events (whole loops: the wall clock around them). Every call
drops the leaves' old gradients first, outside the clock, and frees its graph after it.
"""

from __future__ import annotations

import gc
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Hashable, Sequence

import numpy as np
import torch

COLD, HOT, WALL = "cold", "hot", "wall"
MODES = (COLD, HOT, WALL)


@dataclass
class Call:
    """One rival on one input: `function()` gives the loss; without leaves only the forward is run, without a graph.

    grad_output: the incoming gradient, None for the implicit 1. before: run ahead of every call, outside the clock.
    """

    key: Hashable
    function: Callable[[], torch.Tensor]
    leaves: Sequence[torch.Tensor] = ()
    grad_output: torch.Tensor | None = None
    before: Callable[[], object] | None = None

    def prepare(self):
        for leaf in self.leaves:
            leaf.grad = None
        if self.before is not None:
            self.before()

    def run(self):
        """Forward and backward, untimed; the loss."""
        self.prepare()
        with torch.set_grad_enabled(bool(self.leaves)):
            loss = self.function()
        if self.leaves:
            loss.backward(self.grad_output)
        return loss.detach()


class Cpu:
    """The clock and the cache of the CPU."""

    def __init__(self):
        self.flush_buffer = torch.ones(max(64 << 20, 2 * last_cache_bytes()) // 4)

    def flush(self):
        """Read more than the last cache holds, so that the next call finds none of its data there."""
        self.flush_buffer.sum()

    def once(self, call: Call):
        """Nanoseconds of the forward and of the backward."""
        call.prepare()
        clock, function, leaves, grad_output = time.perf_counter_ns, call.function, call.leaves, call.grad_output
        with torch.set_grad_enabled(bool(leaves)):
            start = clock()
            loss = function()
            middle = clock()
            if not leaves:
                return middle - start, 0
            loss.backward(grad_output)
            end = clock()
        return middle - start, end - middle

    def resolve(self, samples):
        return samples

    def synchronize(self):
        pass


class Cuda:
    """The same on CUDA: events are read after the whole run, so nothing waits between calls.

    After a flush the device is kept busy for a millisecond, in which the host enqueues the call: a cold figure is of
    the device alone. Without it a call of less than 0.3 ms is measured by how fast the host launches it.
    """

    BUSY = 2_000_000  # cycles

    def __init__(self, device: torch.device):
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self.flush_buffer = torch.ones(max(128 << 20, 2 * cache) // 4, device=device)
        self.synchronize = lambda: torch.cuda.synchronize(device)

    def flush(self):
        self.flush_buffer.sum()
        torch.cuda._sleep(self.BUSY)

    def once(self, call: Call):
        call.prepare()
        start, middle, end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        with torch.set_grad_enabled(bool(call.leaves)):
            start.record()
            loss = call.function()
            middle.record()
            if call.leaves:
                loss.backward(call.grad_output)
        end.record()
        return start, middle, end

    def resolve(self, samples):
        self.synchronize()
        return [(start.elapsed_time(mid) * 1e6, mid.elapsed_time(end) * 1e6) for start, mid, end in samples]


def clock_of(device: torch.device) -> Cpu | Cuda:
    return Cuda(device) if device.type == "cuda" else Cpu()


def last_cache_bytes() -> int:
    """Size of the largest CPU cache, 32 MiB if the system does not say."""
    unit = {"K": 1 << 10, "M": 1 << 20}
    found = [32 << 20]
    for size in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        match = re.fullmatch(r"(\d+)([KM])", size.read_text().strip())
        if match:
            found.append(int(match[1]) * unit[match[2]])
    return max(found)


@contextmanager
def quiet():
    """No garbage collection inside the block."""
    gc.collect()
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def rounds_within(clock, calls: Sequence[Call], seconds: float, repeat: float, low: int, high: int) -> int:
    """How many rounds of `repeat` executions of every call fit in `seconds`; also the last warm-up."""
    clock.synchronize()
    start = time.perf_counter()
    for call in calls:
        if repeat == 1:
            clock.flush()
        call.run()
    clock.synchronize()
    return int(min(high, max(low, seconds / (repeat * (time.perf_counter() - start)))))


SHORT = 1e6  # ns


def hot_block(clock, call: Call) -> tuple[int, int]:
    """Calls in a block of one rival, and how many of the first ones do not count.

    A short call is mostly code, which the rival before it has driven out of the caches and the branch predictor: it
    reaches its time after some twenty calls.
    """
    return (60, 20) if sum(clock.resolve([clock.once(call)])[0]) < SHORT else (12, 2)


def measure(clock, calls: Sequence[Call], mode: str, seconds: float, low: int = 5, high: int = 41) -> dict:
    """Samples (forward ns, backward ns) of each call's key, as arrays of two columns.

    cold: one call of each rival a round, the first one changing from round to round, a flush before each.
    hot: a block of calls of one rival after the other, without its first ones (`hot_block`).
    wall: loops of calls without a pause, timed as a whole and divided: (ns of forward + backward, 0).
    """
    samples = {call.key: [] for call in calls}
    if mode == COLD:
        rounds = rounds_within(clock, calls, seconds, 1, low, high)
        with quiet():
            for i in range(rounds):
                for j in range(len(calls)):
                    call = calls[(i + j) % len(calls)]
                    clock.flush()
                    samples[call.key].append(clock.once(call))
    elif mode == HOT:
        blocks = [hot_block(clock, call) for call in calls]
        rounds = rounds_within(clock, calls, seconds, sum(n for n, _ in blocks) / len(blocks), 2, high)
        with quiet():
            for _ in range(rounds):
                for call, (block, dropped) in zip(calls, blocks):
                    found = [clock.once(call) for _ in range(block)]
                    samples[call.key] += found[dropped:]
    else:
        block = 50
        rounds = rounds_within(clock, calls, seconds, block, 3, high)
        with quiet():
            for _ in range(rounds):
                for call in calls:
                    samples[call.key].append(_loop(clock, call, block))
        return {key: np.asarray(found, float) for key, found in samples.items()}
    return {key: np.asarray(clock.resolve(found), float) for key, found in samples.items()}


def _loop(clock, call: Call, n: int):
    clock.synchronize()
    start = time.perf_counter_ns()
    for _ in range(n):
        call.run()
    clock.synchronize()
    return (time.perf_counter_ns() - start) / n, 0.0


PHASES = ("forward", "backward", "both", "inference")


def phase_of(samples: np.ndarray, phase: str) -> np.ndarray:
    """The column of a phase: forward and inference the first, backward the second, both their sum."""
    if phase == "both":
        return samples.sum(1)
    return samples[:, 1 if phase == "backward" else 0]


def quartiles(values: np.ndarray) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    return tuple(float(q) for q in np.percentile(values, [25, 50, 75]))

"""What the memory of a device allows: a copy, and c = a + b with 1, 2 and 4 loads of 16 bytes in flight per thread.

python -m benchmarks.roofs --device cuda      appends rows of the loss "roof" to benchmarks/results/<machine>.csv

The loads are those of each of the two inputs; they need Triton, which CUDA builds of torch bring. `add` is torch's own.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

import torch

from . import rivals, rows, timing

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:
    triton = None

LOSS, ADD = "roof", "add"
SIZES = (1 << 20, 1 << 26)
WARPS = 8

if triton is not None:

    @triton.jit
    def add_kernel(a, b, c, n, block: tl.constexpr):
        at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
        tl.store(c + at, tl.load(a + at, mask=at < n) + tl.load(b + at, mask=at < n), mask=at < n)


def add(a, b, c, loads: int) -> torch.Tensor:
    """c = a + b, each thread `loads` packs of 16 bytes of each tensor."""
    block = 32 * WARPS * loads * (16 // a.element_size())
    add_kernel[(triton.cdiv(a.numel(), block),)](a, b, c, a.numel(), block=block, num_warps=WARPS)
    return c


def field_of(elements: int, dtype: torch.dtype, device: torch.device) -> rivals.Field:
    """The calls on `elements` of each tensor; all move the same number of bytes."""
    name = str(dtype).removeprefix("torch.")
    a, b = (torch.randn(elements, device=device).to(dtype) for _ in range(2))
    c = torch.empty_like(a)
    field = rivals.Field()
    field.floor_bytes[name] = 3 * elements * a.element_size()
    field.tensor_bytes[name] = (2 * elements * a.element_size(), 0)
    field.calls.append(rivals.copy_call(field.floor_bytes[name], name, device))
    field.calls.append(timing.Call(rivals.Key(ADD, name), functools.partial(torch.add, a, b, out=c)))
    for loads in (1, 2, 4) if triton is not None and device.type == "cuda" else ():
        function = functools.partial(add, a, b, c, loads)
        if torch.equal(function(), a + b):
            field.calls.append(timing.Call(rivals.Key(f"{ADD}-{loads}", name), function))
        else:
            field.failures[f"{ADD}-{loads}", name] = "differs from a + b"
    for call in field.calls:
        call.run()
    return field


class Roof:
    """Stands for a case in `rows.rows_of`."""

    key = LOSS


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofs", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="elements of each tensor")
    parser.add_argument("--seconds", type=float, default=0.5, help="time for one size and dtype")
    parser.add_argument("--append", type=Path, help="CSV file (default: benchmarks/results/<machine>.csv)")
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: expected a CUDA device, found none")
    device = torch.device(arguments.device)
    clock, facts = timing.clock_of(device), rows.environment(device) | {"torch_isa": device.type}
    failed = 0
    for elements in arguments.sizes:
        for dtype in (torch.float32, torch.bfloat16):
            field = field_of(elements, dtype, device)
            samples = timing.measure(clock, field.calls, timing.COLD, arguments.seconds)
            found = rows.rows_of(facts, Roof, (elements,), field, samples, timing.COLD, ["both"], {})
            for row in found:
                print(f"{elements} {row['dtype']} {row['rival']}: {row['floor_bytes_per_s'] / 1e9:.0f} GB/s")
            for key, text in field.failures.items():
                print(f"{elements} {' '.join(key)}: {text}")
            failed += len(field.failures)
            rows.append(arguments.append or rows.RESULTS / f"{facts['machine']}.csv", found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

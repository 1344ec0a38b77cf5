"""What a GPU computes, kept in a file and held against the emulated device: the same kernels, compiled twice.

python tests/device_results.py run --output results.pt      on the machine with the GPU
python tests/device_results.py compare results.pt           where the emulated device is built

`run` calls every loss in every variant and dtype, and at the sizes around packs, warps, blocks and tiles: values and
gradients, of a scalar and of a tensor. It calls little else, which makes it the program for compute-sanitizer, too;
`--shard 2/8` takes every eighth problem from the second on, for processes side by side.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from cases import CASES, DTYPES
from emulated_device import emulated
from problems import Problem, as_tuple, incoming
from tolerances import assert_agrees

LARGEST = 40_000  # elements
KEPT = 2_000  # elements of a result that goes into the file
OUT_OF_TIME = 75  # status of a run that did not come to its end


def problems(device: str, dtypes=DTYPES, shard: str = "1/1") -> Iterator[tuple[str, Problem, str | None]]:
    """(name, problem, reduction) of every call of a shard."""
    first, step = (int(part) for part in shard.split("/"))
    turn = itertools.count(1 - first)
    for case in CASES:
        sizes = dict.fromkeys((case.one, *case.sizes, case.hollow or case.one))
        chosen = [(v.name, v, case.shape) for v in case.all_variants]
        chosen += [("x".join(map(str, shape)), None, shape) for shape in sizes]
        for dtype in dtypes:
            for name, variant, shape in chosen:
                if next(turn) % step:
                    continue
                problem = case.problem(variant, dtype, device, shape)
                if problem.n_terms > LARGEST:
                    continue
                for reduction in case.reductions:
                    yield f"{case.name} {name} {str(dtype).removeprefix('torch.')} {reduction}", problem, reduction


def results(problem: Problem, reduction: str | None) -> list[torch.Tensor]:
    """The loss, its gradients from one number and from a tensor of them, and the loss without a gradient."""
    names = [n for n in problem.floating() if n in problem.case.fused]
    mine = problem.leaves(names)
    leaves = [mine.arguments[n] for n in names]
    outputs = as_tuple(mine.call(None, reduction))
    found = [out.detach() for out in outputs]
    for kind, keep in (("scalar", True), ("tensor", False)):
        found += torch.autograd.grad(outputs, leaves, incoming(outputs, kind), retain_graph=keep)
    with torch.no_grad():
        return [*found, *as_tuple(problem.call(None, reduction))]


def run(arguments) -> int:
    kept, count, end, status = {}, 0, time.monotonic() + arguments.seconds, 0
    dtypes = [getattr(torch, name) for name in arguments.dtypes.split(",")]
    for name, problem, reduction in problems(arguments.device, dtypes, arguments.shard):
        if time.monotonic() > end:
            print(f"out of time at {name}")
            status = OUT_OF_TIME
            break
        count += 1
        found = [t.cpu() for t in results(problem, reduction)]
        if sum(t.numel() for t in found) <= KEPT:
            kept[name] = found
    if arguments.output:
        torch.save(kept, arguments.output)
    print(f"{count} calls on {arguments.device}, the results of {len(kept)} kept")
    return status


def compare(arguments) -> int:
    given = torch.load(arguments.file)
    same = close = 0
    different = []
    for name, problem, reduction in problems("cpu"):
        if name not in given:
            continue
        with emulated(multiprocessors=132) if arguments.device == "emulated" else nullcontext():
            found = results(problem, reduction)
        try:
            for ours, theirs in zip(found, given.pop(name), strict=True):
                equal = torch.equal(ours.nan_to_num(), theirs.nan_to_num())
                same, close = same + equal, close + (not equal)
                assert_agrees(theirs, ours, n_terms=problem.n_terms, magnitude=10.0)
        except AssertionError as error:
            different.append(f"{name}: {error}")
    print("\n".join(different))
    print(f"{same} tensors of the same bits, {close} within rounding; {len(different)} calls differ")
    print(f"{len(given)} results were not asked for" if given else "every result was asked for")
    return 1 if different or given else 0


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python tests/device_results.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run", help="on the machine with the GPU")
    command.add_argument("--output", type=Path, help="where small results are kept")
    command.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    every = ",".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
    command.add_argument("--dtypes", default=every, help="comma-separated (default: all)")
    command.add_argument("--seconds", type=float, default=math.inf, help="begin no call after this time")
    command.add_argument("--shard", default="1/1", help="k/n: every n-th problem from the k-th on")
    command.set_defaults(go=run)
    command = commands.add_parser("compare", help="with the same calls here")
    command.add_argument("file", type=Path)
    command.add_argument("--device", choices=["emulated", "cpu"], default="emulated")
    command.set_defaults(go=compare)
    arguments = parser.parse_args(argv)
    return arguments.go(arguments)


if __name__ == "__main__":
    sys.exit(main())

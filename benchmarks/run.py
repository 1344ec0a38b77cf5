"""Measures the fused losses against their rivals and appends the rows to benchmarks/results/<machine>.csv.

python -m benchmarks.run --quick              the five families, one table, nothing stored
python -m benchmarks.run --suite full         default sizes, float32 and bfloat16, hot and cold, memory
python -m benchmarks.run --suite small        64 elements, against F.mse_loss
python -m benchmarks.run --suite sweep        1 to 2^25 elements, fused and eager
python -m benchmarks.run --suite full --check also says which bars of targets.py are met

--repeat 3 gives the spread that the report states beside a ratio; --resume goes on where a run was interrupted.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import math
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

import torch

from . import memory, rivals, rows, targets, timing
from .cases import QUICK, cases
from .progress import Progress

SWEEP = [1, 64, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 21, 1 << 23, 1 << 25]
CPU_SUITES = {
    "quick": dict(
        sizes=["default"], dtypes=["float32"], modes=["cold"], rivals=["fused", "eager", "compile"], seconds=2.5,
        losses=QUICK, memory=False, phase=["both"],
    ),
    "full": dict(
        sizes=["default"], dtypes=["float32", "bfloat16"], modes=["cold", "hot"], rivals=list(rivals.RIVALS),
        seconds=6.0, memory=True, phase=list(timing.PHASES),
    ),
    "small": dict(
        sizes=["64"], dtypes=["float32"], modes=["hot"], rivals=["fused", "eager", "torch"], seconds=1.0, memory=False
    ),
    "sweep": dict(
        sizes=[str(n) for n in SWEEP], dtypes=["float32"], modes=["hot"], rivals=["fused", "eager"], seconds=1.5,
        memory=False,
    ),
}  # fmt: skip
CUDA_SUITES = CPU_SUITES | {
    "full": dict(  # the sizes the bars are for come first: machine time may run out
        sizes=[str(1 << 26), str(1 << 14), str(1 << 20)], dtypes=["float32", "bfloat16"], modes=["cold", "wall"],
        rivals=[*rivals.RIVALS, rivals.COMPILE_MAX], seconds=0.5, memory=True,
        incoming=[rivals.ONE, rivals.RANDOM], phase=list(timing.PHASES),
    ),
}  # fmt: skip


def parse(argv=None) -> argparse.Namespace:
    listed = lambda text: [part for part in text.split(",") if part]  # noqa: E731
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="five families, float32, one table, nothing stored")
    parser.add_argument("--suite", choices=["full", "small", "sweep"], help="a preset; the options below override it")
    parser.add_argument("--losses", type=listed, help="names of losses or cases, comma-separated (default: all)")
    parser.add_argument("--sizes", type=listed, help="numbers of elements, or default")
    parser.add_argument("--dtypes", type=listed, help="float32, bfloat16, float16, float64")
    parser.add_argument("--rivals", type=listed, help="fused, eager, compile, compile-max, torch")
    parser.add_argument("--modes", type=listed, help="cold, hot, wall (whole loops, up to 2^17 elements)")
    parser.add_argument("--phase", type=listed,
                        help="forward, backward, both, inference (a forward without gradient)")  # fmt: skip
    parser.add_argument("--incoming", type=listed, help="one, random: the incoming gradient")
    parser.add_argument("--threads", type=int, default=min(2, torch.get_num_threads()))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--isa", type=listed, default=[], help="instruction sets of the fused rival: avx512,avx2,default"
    )
    parser.add_argument("--seconds", type=float, help="time for one case, size and mode, warm-up excluded")
    parser.add_argument("--max-seconds", type=float, default=math.inf, help="start nothing new after this time")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, help="peak memory, in fresh processes")
    parser.add_argument(
        "--append", type=Path, help="CSV file (default: benchmarks/results/<machine>.csv; not for --quick)"
    )
    parser.add_argument("--resume", action="store_true",
                        help="leave out what the CSV has of these sources; status 75 if time runs out")  # fmt: skip
    parser.add_argument("--repeat", type=int, default=1, help="measure everything so many times")
    parser.add_argument("--prepare", action="store_true", help="only fill torch.compile's cache for a later run")
    parser.add_argument("--compile-cache", type=Path,
                        help="a folder, empty before --prepare filled it (default: a fresh one)")  # fmt: skip
    parser.add_argument("--check", action="store_true", help="compare with the bars of targets.py")
    arguments = parser.parse_args(argv)
    suites = CUDA_SUITES if arguments.device == "cuda" else CPU_SUITES
    preset = suites["quick" if arguments.quick else arguments.suite or "full"]
    for name, value in preset.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    arguments.incoming = arguments.incoming or [rivals.ONE]
    arguments.phase = arguments.phase or ["forward", "backward", "both"]
    for option, given, known in (
        ("--modes", arguments.modes, timing.MODES),
        ("--phase", arguments.phase, timing.PHASES),
        ("--rivals", arguments.rivals, (*rivals.RIVALS, rivals.COMPILE_MAX)),
        ("--incoming", arguments.incoming, (rivals.ONE, rivals.RANDOM)),
        ("--dtypes", arguments.dtypes, ("float32", "bfloat16", "float16", "float64")),
    ):
        if set(given) - set(known):
            parser.error(f"{option}: expected some of {', '.join(known)}, got {','.join(given)}")
    if any(size != "default" and not size.isdigit() for size in arguments.sizes):
        parser.error(f"--sizes: expected numbers of elements or default, got {','.join(arguments.sizes)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: expected a CUDA device, found none")
    try:
        arguments.plan = plan(arguments)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def plan(arguments) -> list[tuple]:
    """(case, shape) of everything to measure, no shape twice."""
    found = {}
    chosen = cases(arguments.losses, arguments.device)
    if arguments.losses is QUICK:
        chosen = sorted((case for case in chosen if case.key in QUICK), key=lambda case: QUICK.index(case.key))
    if arguments.device == "cuda":
        chosen.sort(key=lambda case: case.key not in targets.CUDA)
    for size in arguments.sizes:
        for case in chosen:
            shape = case.shape if size == "default" else case.shape_of(int(size))
            largest = case.largest * (16 if arguments.device == "cuda" else 1)
            if math.prod(shape) <= largest:
                found[case.key, shape] = (case, shape)
    return list(found.values())


QUICK_COMPILE = 120.0  # seconds in which a quick run compiles; what is not ready by then is left out of its table
READY = "compiled: "  # what --prepare says of a case


def compile_ahead(arguments, until: float) -> set[str]:
    """Fills torch.compile's cache for the cases of a quick run in two processes: compiling takes most of its time.

    Returns the keys of the cases that are compiled.
    """
    keys = list(dict.fromkeys(case.key for case, _ in arguments.plan))
    commands = [
        [sys.executable, "-m", "benchmarks.run", "--quick", "--prepare", "--losses", ",".join(half)]
        for half in (keys[::2], keys[1::2])
        if half
    ]
    quiet = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    children = [subprocess.Popen(command, **quiet) for command in commands]
    said = []
    for child in children:
        try:
            said.append(child.communicate(timeout=max(0.0, until - time.monotonic()))[0])
        except subprocess.TimeoutExpired:
            child.terminate()
            said.append(child.communicate()[0])
    return {line.removeprefix(READY) for line in "".join(said).splitlines() if line.startswith(READY)}


def measure(arguments, facts, clock, case, shape, compile_until, with_memory) -> tuple[list[dict], dict]:
    """The rows of one case and size, and what failed."""
    device = torch.device(arguments.device)
    dtypes = [getattr(torch, name) for name in arguments.dtypes]
    without = rivals.COMPILE_MAX if math.prod(shape) < targets.CUDA_ELEMENTS // 2 else None
    contenders = [rival for rival in arguments.rivals if rival != without or arguments.device == "cpu"]
    field = rivals.field_of(
        case, shape, dtypes, device, contenders, isas=arguments.isa, incoming=arguments.incoming,
        inference="inference" in arguments.phase, compile_until=compile_until,
    )  # fmt: skip
    if arguments.prepare:
        print(f"{READY}{case.key}", flush=True)
        return [], field.failures
    peaks = {}
    if with_memory:
        for (rival, dtype), form in field.form.items():
            if dtype != "float32":
                continue
            try:
                peaks[rival, dtype] = memory.peak_memory(
                    case, shape, dtype, arguments.device, rival, form, arguments.threads
                )
            except Exception as error:
                field.failures[rival, f"{dtype} memory"] = str(error)[:200]
    found = []
    for mode in arguments.modes:
        if mode == timing.WALL and math.prod(shape) > 1 << 17:
            continue
        samples = timing.measure(clock, field.calls, mode, arguments.seconds)
        found += rows.rows_of(facts, case, shape, field, samples, mode, arguments.phase, peaks)
    return found, field.failures


def line(found: list[dict]) -> str:
    """One case and size in one line: ns per element (below 65 536 elements: microseconds) and ratios to fused."""
    parts = []
    for mode in dict.fromkeys(r["mode"] for r in found):
        for dtype in dict.fromkeys(r["dtype"] for r in found):
            chosen = [
                r for r in found
                if (r["mode"], r["dtype"], r["phase"], r["incoming"]) == (mode, dtype, "both", "one")
            ]  # fmt: skip
            fused = next((r["median_s"] for r in chosen if r["rival"] == "fused"), None)
            several = len({r["isa"] for r in chosen if r["rival"] == "fused"}) > 1
            cells = []
            for r in chosen:
                value = r["ns_per_element"] if r["elements"] >= 1 << 16 else r["median_s"] * 1e6
                ratio = f" ({r['median_s'] / fused:.1f}x)" if fused and r["rival"] != "fused" else ""
                isa = f" {r['isa']}" if several and r["rival"] == "fused" else ""
                cells.append(f"{r['rival']}{isa} {value:.3g}{ratio}")
            if cells:
                parts.append(f"    {mode} {dtype}: " + ", ".join(cells))
    unit = "ns/element" if found[0]["elements"] >= 1 << 16 else "us"
    return f"{found[0]['loss']} {found[0]['shape']}, {unit}\n" + "\n".join(parts)


def quick_table(found: list[dict]) -> str:
    """The plain table that `make demo` ends with."""
    head = (
        f"{'loss':24}{'elements':>10}{'fused':>9}{'eager':>9}{'compile':>9}   {'eager/fused':>11}{'compile/fused':>15}"
    )
    out = [head, f"{'':24}{'':>10}{'ns per element':>27}   {'times as fast':>20}", "-" * len(head)]
    for loss in dict.fromkeys(r["loss"] for r in found):
        chosen = {r["rival"]: r for r in found if r["loss"] == loss and r["phase"] == "both"}
        cells = [
            f"{chosen[n]['ns_per_element']:9.2f}" if n in chosen else f"{'-':>9}" for n in ("fused", "eager", "compile")
        ]
        ratios = [
            f"{chosen[n]['median_s'] / chosen['fused']['median_s']:{width}.1f}"
            if n in chosen and "fused" in chosen else f"{'-':>{width}}"
            for n, width in (("eager", 11), ("compile", 15))
        ]  # fmt: skip
        elements = next(iter(chosen.values()))["elements"]
        out.append(f"{loss:24}{elements:>10,}{''.join(cells)}   {''.join(ratios)}")
    return "\n".join(out)


class Run:
    """The measurements of one call of this program: what is left to do, and what was found."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.device = torch.device(arguments.device)
        self.clock = timing.clock_of(self.device)
        self.deadline = time.monotonic() + arguments.max_seconds
        self.compile_until = self.deadline if not arguments.quick else time.monotonic() + QUICK_COMPILE
        self.compiled = set()  # cases whose forms are in the cache: they need no more time
        self.facts = rows.environment(self.device)
        self.facts["torch_isa"] = (
            torch.backends.cpu.get_cpu_capability().lower() if self.device.type == "cpu" else "cuda"
        )
        self.path = arguments.append or (None if arguments.quick else rows.RESULTS / f"{self.facts['machine']}.csv")
        self.found, self.failures, self.unbuilt, self.out_of_time = [], {}, set(), False

    def items(self) -> list[tuple]:
        """(repetition, case, shape) of what is not measured yet."""
        wanted = itertools.product({rivals.FUSED, rivals.EAGER} & {*self.arguments.rivals}, self.arguments.dtypes,
                                   {*self.arguments.modes} - {timing.WALL})  # fmt: skip
        done = rows.measured(self.path, self.facts, set(wanted)) if self.arguments.resume else {}
        return [
            (repetition, case, shape)
            for repetition in range(self.arguments.repeat)
            for case, shape in self.arguments.plan
            if not self.arguments.resume or repetition >= done[case.key, "x".join(map(str, shape))]
        ]

    def measure(self) -> None:
        items = self.items()
        progress = Progress(len(items))
        for repetition, case, shape in items:
            name = "x".join(map(str, shape))
            if time.monotonic() > self.deadline:
                self.out_of_time = True
                self.failures[case.key, "", name] = "not measured: out of time"
                continue
            progress.begin(f"{case.key} {name}" + (f", run {repetition + 1}" if self.arguments.repeat > 1 else ""))
            facts = self.facts | {"run": f"{self.facts['run']}.{repetition}"}
            memory = self.arguments.memory and repetition == 0  # it has no spread
            until = self.deadline if case.key in self.compiled else self.compile_until
            try:
                found, failed = measure(self.arguments, facts, self.clock, case, shape, until, memory)
            except Exception as error:  # one case must not cost the others' rows
                found, failed = [], {("all", ""): f"{type(error).__name__}: {error}".splitlines()[0]}
            progress.finish()
            self.failures |= {(case.key, *key): text for key, text in failed.items()}
            if found:
                self.keep(case, found, progress)
            gc.collect()

    def keep(self, case, found: list[dict], progress: Progress) -> None:
        if not self.arguments.quick:
            progress.say(line(found))
        if not rivals.has_kernel(case, self.device):
            self.unbuilt.add(case.loss)
            self.found += found if self.arguments.quick else []
            return
        self.found += found
        if self.path:
            rows.append(self.path, found)

    def report(self) -> int:
        """Prints what the rows do not say; the exit status."""
        if self.arguments.quick and self.found:
            print(quick_table(self.found))
            print("cold caches: the three alternate call by call, each after a flush of the last cache")
        for text in dict.fromkeys(self.failures.values()):
            names = (" ".join(filter(None, key)) for key, other in self.failures.items() if other == text)
            print(f"not measured or not agreeing: {', '.join(names)}: {text}")
        if self.unbuilt:
            print(f"without a kernel in this build, not stored: {', '.join(sorted(self.unbuilt))}")
        if self.arguments.check:
            verdicts = targets.check(self.found)
            print("\n".join(map(str, verdicts)))
            print(f"{sum(v.met for v in verdicts)} of {len(verdicts)} bars met")
            return 0 if all(v.met for v in verdicts) else 1
        return 75 if self.arguments.resume and self.out_of_time else 0


def main(argv=None) -> int:
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", module=r"torch\..*")
    run = Run(arguments)
    print(
        f"{run.facts['machine']}, {run.facts['threads']} threads, torch {run.facts['torch']}, fused kernels: "
        f"{rivals.cpu_isa() if arguments.device == 'cpu' else 'CUDA'}; medians of forward + backward"
    )
    # A run that only fills the cache does it for the one that started it, or for those that are given the same folder.
    own = arguments.prepare and arguments.compile_cache is None
    with nullcontext() if own else rivals.private_compile_cache(arguments.compile_cache):
        if arguments.quick and not arguments.prepare:
            run.compiled = compile_ahead(arguments, run.compile_until)
        try:
            run.measure()
        except KeyboardInterrupt:
            print("\nInterrupted; what was measured is stored, and the same command with --resume goes on from there.")
            return 130
    return run.report()


if __name__ == "__main__":
    sys.exit(main())

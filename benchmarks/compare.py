"""Compares the library as it is here with another build of it, call by call: one line and one CSV row for each case.

python -m benchmarks.compare --against HEAD~3                    all losses, default sizes and 64 elements
python -m benchmarks.compare --against HEAD~3 --losses dice_loss,cross_entropy --sizes default
python -m benchmarks.compare --against ../other/checkout         a folder that holds a built library
"""

# Each build runs in a process of its own (worker.py) and the two alternate call by call: a ratio is of two calls that
# followed each other, so what else the machine does hits both. Where a process lies in memory alone is worth up to 3 %
# at 64 elements: everything is measured in several rounds, each with fresh processes and tensors. A case is slower
# beyond doubt if it is in every round; then the exit status is 1.

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from . import builds, rows
from .cases import Case, cases
from .progress import Progress
from .timing import COLD, HOT
from .worker import Worker

SMALL = 64
SLOWER = {SMALL: 1.02}  # by number of elements
SLOWER_DEFAULT = 1.03
COLUMNS = ("machine", "isa", "threads", "torch", "old", "new", "loss", "dtype", "shape", "elements", "mode", "pairs",
           "old_s", "new_s", "ratio", "q1", "q3", "rounds", "least", "most")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Item:
    """One thing to compare."""

    case: Case
    shape: tuple[int, ...]
    dtype: str
    mode: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def limit(self) -> float:
        return SLOWER.get(self.elements, SLOWER_DEFAULT)

    @property
    def calls(self) -> int:
        """Calls of one build before the other's turn."""
        return 1 if self.mode == COLD else 40 if self.elements <= 1 << 14 else 4

    def __str__(self):
        return f"{self.case.key} {'x'.join(map(str, self.shape))} {self.dtype} {self.mode}"


def measure(item: Item, old: Worker, new: Worker, seed: int, seconds: float) -> np.ndarray:
    """Nanoseconds of the old and of the new build, a row for each pair."""
    prepare = dict(request="prepare", case=item.case.key, shape=item.shape, dtype=item.dtype, seed=seed)
    one, other = old.ask(**prepare), new.ask(**prepare)
    if not math.isclose(one, other, rel_tol=1e-3 if item.dtype in ("float32", "float64") else 4e-2):
        raise RuntimeError(f"the builds disagree: loss and gradients sum up to {one:.7g} and {other:.7g}")
    pairs, end = [], time.monotonic() + seconds
    while time.monotonic() < end or len(pairs) < 4:
        order = (old, new) if len(pairs) % 2 else (new, old)
        taken = {worker: worker.ask(request="measure", calls=item.calls) for worker in order}
        pairs.append((taken[old], taken[new]))
    return np.asarray(pairs)


def row_of(item: Item, rounds: list[np.ndarray], facts: dict) -> dict:
    pairs = np.concatenate(rounds)
    q1, ratio, q3 = (float(q) for q in np.percentile(pairs[:, 1] / pairs[:, 0], [25, 50, 75]))
    medians = [float(np.median(found[:, 1] / found[:, 0])) for found in rounds]
    old_s, new_s = (float(s) * 1e-9 for s in np.median(pairs, 0))
    return facts | {
        "loss": item.case.key, "dtype": item.dtype, "shape": "x".join(map(str, item.shape)), "elements": item.elements,
        "mode": item.mode, "pairs": len(pairs), "old_s": old_s, "new_s": new_s, "ratio": ratio, "q1": q1, "q3": q3,
        "rounds": len(rounds), "least": min(medians), "most": max(medians),
    }  # fmt: skip


def line(item: Item, row: dict) -> str:
    seconds = f"{row['old_s'] * 1e6:10.2f} -> {row['new_s'] * 1e6:10.2f} us"
    spread = (
        f"quartiles {row['q1']:.3f} to {row['q3']:.3f}, {row['rounds']} rounds {row['least']:.3f} to {row['most']:.3f}"
    )
    return f"{item!s:76} {seconds}  new / old {row['ratio']:.3f}  ({spread}, {row['pairs']} pairs)"


def summary(found: list[tuple[Item, dict]]) -> tuple[str, bool]:
    """What is slower than its limit, the worst first, and whether any of it is beyond doubt."""
    out, sure = [], False
    for item, row in sorted(found, key=lambda pair: -pair[1]["ratio"]):
        if row["ratio"] > item.limit:
            certain = row["least"] > item.limit
            sure |= certain
            doubt = "" if certain else f", in doubt: {row['least']:.3f} in one round"
            out.append(f"  {item}: {row['ratio']:.3f} of the old time, at most {item.limit} wanted{doubt}")
    for mode in dict.fromkeys(item.mode for item, _ in found):
        for small in (False, True):
            ratios = [row["ratio"] for item, row in found if item.mode == mode and (item.elements == SMALL) == small]
            if ratios:
                size = f"{SMALL} elements" if small else "other sizes"
                mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
                out.append(f"{mode}, {size}: geometric mean {mean:.3f} of {len(ratios)} cases, "
                           f"{min(ratios):.3f} to {max(ratios):.3f}")  # fmt: skip
    head = "Slower than the limit:" if any(row["ratio"] > item.limit for item, row in found) else "No case is slower."
    return "\n".join([head, *out]), sure


def plan(arguments) -> list[Item]:
    found = {}
    for size in arguments.sizes:
        for case in cases(arguments.losses, arguments.device):
            shape = case.shape if size == "default" else case.shape_of(int(size))
            if math.prod(shape) > case.largest and size != "default":
                continue
            small = math.prod(shape) <= 1 << 14
            for dtype in arguments.dtypes:
                for mode in arguments.modes if not small else [HOT]:
                    item = Item(case, shape, dtype, mode)
                    found[str(item)] = item
    return list(found.values())


def parse(argv=None) -> argparse.Namespace:
    listed = lambda text: [part for part in text.split(",") if part]  # noqa: E731
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.splitlines()[0])
    parser.add_argument("--against", required=True, help="a revision, built on first use, or the folder of a build")
    parser.add_argument("--losses", type=listed, help="names of losses or cases, comma-separated (default: all)")
    parser.add_argument("--sizes", type=listed, default=["default", str(SMALL)], help="numbers of elements, or default")
    parser.add_argument("--dtypes", type=listed, default=["float32"])
    parser.add_argument("--modes", type=listed, default=[COLD, HOT], help="cold, hot (up to 2^14 elements always hot)")
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="time for one case, size, dtype and mode, all rounds"
    )
    parser.add_argument("--rounds", type=int, default=4, help="fresh processes and tensors so many times")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--isa", default="", help="instruction set of both builds (default: the best)")
    parser.add_argument("--output", type=Path, help="CSV file (default: build/compare/<old>-<new>.csv)")
    arguments = parser.parse_args(argv)
    try:
        arguments.plan = plan(arguments)
        arguments.old = builds.build_of(arguments.against)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def run(arguments, roots: tuple[Path, Path], progress: Progress) -> tuple[dict, dict]:
    """(pairs of each round by item, message by item that failed); what there is so far if interrupted."""
    found, failures = {}, {}
    try:
        for seed in range(arguments.rounds):
            old, new = (Worker(root, arguments.device, arguments.threads, arguments.isa) for root in roots)
            for item in arguments.plan:
                progress.begin(f"{item}, round {seed + 1}")
                if item not in failures:
                    try:
                        pairs = measure(item, old, new, seed, arguments.seconds / arguments.rounds)
                        found.setdefault(item, []).append(pairs)
                    except RuntimeError as error:
                        failures[item] = str(error)
                progress.finish()
            old.close()
            new.close()
    except KeyboardInterrupt:
        failures["the rest"] = f"interrupted in round {seed + 1}"
    return found, failures


def write(path: Path, found: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in found:
            writer.writerow({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()})


def main(argv=None) -> int:
    arguments = parse(argv)
    name, root = arguments.old
    facts = rows.environment(torch.device(arguments.device))
    facts |= {"old": name, "new": facts["commit"], "isa": arguments.isa or "best", "threads": arguments.threads}
    progress = Progress(len(arguments.plan) * arguments.rounds)
    pairs, failures = run(arguments, (root, builds.REPOSITORY), progress)
    found = [(item, row_of(item, rounds, facts)) for item, rounds in pairs.items()]
    path = arguments.output or builds.FOLDER / f"{Path(name).name}-{facts['commit']}.csv"
    write(path, [row for _, row in found])
    print("\n".join(line(*pair) for pair in found))
    text, slower = summary(found)
    print(f"\n{facts['new']} against {name}, {facts['machine']}, {arguments.threads} threads; rows in {path}\n{text}")
    for item, message in failures.items():
        print(f"Not compared: {item}: {message}")
    return 1 if slower or failures else 0


if __name__ == "__main__":
    sys.exit(main())

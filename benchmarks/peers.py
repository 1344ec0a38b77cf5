"""Measures the adapters of fused_losses.compat against the libraries they stand in for and against the bare call.

python -m benchmarks.peers             rows to benchmarks/results/peers/<machine>.csv, tables into docs/migration.md
python -m benchmarks.peers --tables    only the tables, from the rows
python -m benchmarks.peers --check     also says which adapter is slower than its peer or allocates too much

A library that is not installed is left out. Time: forward + backward, the rivals alternating call by call.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
from pathlib import Path

import torch

from . import memory, rows, timing
from .peer_cases import CASES, PeerCase, imported

PEER, ADAPTER, BARE = RIVALS = ("peer", "adapter", "bare")
COLUMNS = ("run", "machine", "threads", "torch", "commit", "library", "version", "loss", "shape", "rival", "calls",
           "median_s", "q1_s", "q3_s", "peak_bytes", "input_bytes")  # fmt: skip
NUMBERS = ("median_s", "q1_s", "q3_s", "peak_bytes", "input_bytes")
PAGE = Path(__file__).resolve().parent.parent / "docs" / "migration.md"
DISTRIBUTIONS = {"open_clip": "open_clip_torch", "pytorch_metric_learning": "pytorch-metric-learning"}
MOST_MEMORY = 1.3  # of the logits, where the bare call allocates 1.0


def calls_of(case: PeerCase, losses, shape) -> list[timing.Call]:
    """The three rivals on the same tensors. losses: the library's module, None to leave it out."""
    x, target = case.tensors(shape, torch.Generator().manual_seed(0))
    x.requires_grad_()
    functions = {ADAPTER: case.make(case.adapters), BARE: case.bare}
    if losses is not None:
        functions = {PEER: case.make(losses), **functions}
    return [
        timing.Call(rival, lambda function=function: function(x, target), [x]) for rival, function in functions.items()
    ]


def measure(case: PeerCase, clock, facts: dict, seconds: float) -> list[dict]:
    """A row for each rival."""
    calls = calls_of(case, imported(case.losses), case.shape)
    for call in calls:
        call.run()
    peaks = {call.key: memory.live_peak(lambda call=call: call.run().shape) for call in calls if not call.prepare()}
    samples = timing.measure(clock, calls, timing.COLD, seconds, high=21)
    version = importlib.metadata.version(DISTRIBUTIONS.get(case.library, case.library))
    found = []
    for key, values in samples.items():
        low, median, high = (q * 1e-9 for q in timing.quartiles(timing.phase_of(values, "both")))
        found.append(
            facts | {
                "library": case.library, "version": version, "loss": case.written,
                "shape": "x".join(map(str, case.shape)), "rival": key, "calls": len(values), "median_s": median,
                "q1_s": low, "q3_s": high, "peak_bytes": peaks[key],
                "input_bytes": calls[0].leaves[0].numel() * calls[0].leaves[0].element_size(),
            }
        )  # fmt: skip
    return found


def append(path: Path, found: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        if new:
            writer.writeheader()
        for row in found:
            writer.writerow({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()})


def latest(folder: Path) -> dict[tuple[str, str], dict[str, dict]]:
    """Of each loss of each library, the rows of its last run by rival."""
    found: dict[tuple[str, str], dict[str, dict]] = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                row |= {name: float(row[name]) for name in NUMBERS}
                of = found.setdefault((row["library"], row["loss"]), {})
                if of and next(iter(of.values()))["run"] != row["run"]:
                    of.clear()
                of[row["rival"]] = row
    return found


def table(library: str, found: dict) -> str:
    """The rows of a library as a table: milliseconds, and memory as a multiple of the logits."""
    lines = [
        "| theirs | logits | theirs, ms | adapter, ms | bare call, ms | faster | memory: theirs | adapter | bare |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (of, loss), by_rival in found.items():
        if of != library:
            continue
        times = {rival: by_rival[rival]["median_s"] * 1e3 for rival in RIVALS}
        sizes = {rival: by_rival[rival]["peak_bytes"] / by_rival[rival]["input_bytes"] for rival in RIVALS}
        cells = [f"`{loss}`", by_rival[PEER]["shape"].replace("x", " × ")]
        cells += [f"{times[rival]:.1f}" for rival in RIVALS] + [f"{times[PEER] / times[ADAPTER]:.1f}×"]
        cells += [f"{sizes[rival]:.2f}" for rival in RIVALS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def written(page: str, found: dict) -> str:
    """The page with the tables of the rows between its marks."""
    for library in dict.fromkeys(library for library, _ in found):
        begin, end = f"<!-- {library}:begin -->", f"<!-- {library}:end -->"
        if begin in page:
            head, _, rest = page.partition(begin)
            page = f"{head}{begin}\n{table(library, found)}\n{end}{rest.partition(end)[2]}"
    return page


def misses(found: dict) -> list[str]:
    """What is slower than its peer, or allocates more than it may beside the bare call."""
    said = []
    for (library, loss), by_rival in found.items():
        peer, adapter, bare = (by_rival[rival] for rival in RIVALS)
        if adapter["median_s"] > peer["median_s"]:
            said.append(f"{library} {loss}: {adapter['median_s'] / peer['median_s']:.2f} times the peer's time")
        allowed = max(MOST_MEMORY * adapter["input_bytes"], MOST_MEMORY * bare["peak_bytes"])
        if adapter["peak_bytes"] > allowed:
            said.append(f"{library} {loss}: {adapter['peak_bytes'] / adapter['input_bytes']:.2f} times the logits")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.splitlines()[0])
    parser.add_argument("--libraries", nargs="*", help="only these")
    parser.add_argument("--seconds", type=float, default=4.0, help="time for one configuration, warm-up excluded")
    parser.add_argument("--tables", action="store_true", help="measure nothing, write the tables")
    parser.add_argument("--check", action="store_true", help="status 1 where a bar is missed")
    arguments = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    device = torch.device("cpu")
    folder = rows.RESULTS / "peers"
    if not arguments.tables:
        clock, facts = timing.clock_of(device), rows.environment(device)
        for case in CASES:
            if arguments.libraries and case.library not in arguments.libraries:
                continue
            try:
                found = measure(case, clock, facts, arguments.seconds)
            except (ImportError, RuntimeError) as error:
                print(f"{case.library} {case.written}: left out, {type(error).__name__}: {error}")
                continue
            append(folder / f"{facts['machine']}.csv", found)
            times = ", ".join(f"{row['rival']} {row['median_s'] * 1e3:.1f} ms" for row in found)
            sizes = ", ".join(f"{row['peak_bytes'] / row['input_bytes']:.2f}" for row in found)
            print(f"{case.library} {case.written}: {times}; memory {sizes} of the logits", flush=True)
    found = latest(folder)
    if PAGE.exists():
        PAGE.write_text(written(PAGE.read_text(), found))
    said = misses(found)
    if arguments.check:
        print("\n".join(said) or "every bar is met")
    return int(arguments.check and bool(said))


if __name__ == "__main__":
    raise SystemExit(main())

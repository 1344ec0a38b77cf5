"""Tables and plots from benchmarks/results/*.csv: `python -m benchmarks.report [--readme README.md]`.

Writes benchmarks/RESULTS.md and benchmarks/plots/*.png, and the parts of the README between the markers
`<!-- NAME:begin -->` and `<!-- NAME:end -->`, NAME being benchmark, benchmark-few, benchmark-small or benchmark-gpu,
where it has them.
A ratio is always of two rows of one run; of several runs the median, with the least and the largest behind it.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pandas as pd

from . import custom_report, plots, roofs, scale_report, targets
from .measurements import compare, default_size, load, machines, pick, read, records
from .rows import RESULTS

HERE = Path(__file__).resolve().parent
# A few rows for a first reader: the common, torch's own op, segmentation, a quadratic one, one that gains nothing.
TELLING = ("sigmoid_focal_loss", "cross_entropy", "dice_cross_entropy_loss", "lambda_ndcg_loss", "mahalanobis_loss")


def number(value, digits=2, suffix="") -> str:
    return "-" if pd.isna(value) or value == "" else f"{value:.{digits}f}{suffix}"


def ratio(value, low=float("nan"), high=float("nan")) -> str:
    """With the spread of several runs where they differ."""
    if pd.isna(value):
        return "-"
    spread = f" ({low:.1f}–{high:.1f})" if f"{low:.1f}" != f"{high:.1f}" else ""
    return f"{value:.1f}×{spread}"


def ratios(line) -> list[str]:
    """Times as fast as eager and as torch.compile."""
    return [ratio(line.eager_ratio, line.eager_ratio_low, line.eager_ratio_high),
            ratio(line.compile_ratio, line.compile_ratio_low, line.compile_ratio_high)]  # fmt: skip


def runs_of(table: pd.DataFrame) -> str:
    least, most = int(table.runs.min()), int(table.runs.max())
    count = f"{most} runs" if least == most else f"{least} to {most} runs"
    return "one run" if most == 1 else f"medians of {count}, their least and largest ratio in brackets"


def form(name) -> str:
    """How the rival is written: reference, torch (its own op), or a form of benchmarks/chains.py or lean.py."""
    return "" if pd.isna(name) else str(name)


def markdown(head: list[str], lines: list[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *lines])


def where(table: pd.DataFrame) -> str:
    first = table.iloc[-1]
    isa = "" if first.device == "cuda" else f", {first.isa.upper().replace('AVX512', 'AVX-512')}"
    return f"{first.machine}, {int(first.threads)} threads{isa}, torch {first.torch_version}"


def cpu_table(table: pd.DataFrame) -> str:
    """Of each loss the cold ratios at the default size, float32."""
    table = pick(table, device="cpu", phase="both", incoming="one", dtype="float32")
    chosen = pick(table, mode="cold")
    chosen = default_size(chosen) if not chosen.empty else chosen
    if chosen.empty:
        return "Not measured yet."
    hot = pick(table, mode="hot")
    hot_ns = {} if hot.empty else dict(zip(default_size(hot).loss, default_size(hot).ns))
    lines = []
    for r in chosen.itertuples():
        peak = number(r.peak / r.gradients, 2, "×") if r.gradients and not pd.isna(r.peak) else "-"
        lines.append(
            [f"`{r.loss}`", r.shape.replace("x", " × "), number(r.ns), number(hot_ns.get(r.loss)), *ratios(r),
             number(r.copy_percent, 0, " %"), peak, form(r.eager_form), form(r.compile_form)]
        )  # fmt: skip
    head = ["loss", "input", "ns/element cold", "hot", "faster than eager", "than torch.compile", "of copy speed",
            "peak memory / gradients", "eager form", "compiled form"]  # fmt: skip
    note = (
        f"Forward + backward, float32, {where(chosen)}; {runs_of(chosen)}. Cold caches: the rivals alternate call by "
        "call in one run, the last cache flushed before each. Eager is the fastest of the plain reference, the forms "
        "people commonly write (`benchmarks/chains.py`) or would for speed (`benchmarks/lean.py`) and torch's own op; "
        "torch.compile is the fastest of all these compiled. The last columns name the two."
    )
    return f"{note}\n\n{markdown(head, lines)}"


def few_table(table: pd.DataFrame) -> str:
    """README's table: the telling rows, cold, at the default size, float32."""
    chosen = pick(table, device="cpu", phase="both", incoming="one", dtype="float32", mode="cold")
    chosen = default_size(chosen) if not chosen.empty else chosen
    chosen = chosen[chosen.loss.isin(TELLING)] if not chosen.empty else chosen
    if chosen.empty:
        return "Not measured yet."
    lines = [
        [f"`{r.loss}`", r.shape.replace("x", " × "), number(r.ns), *ratios(r), number(r.peak / r.gradients, 2, "×")]
        for r in chosen.itertuples()
    ]
    head = ["loss", "input", "ns/element", "faster than eager", "than torch.compile", "peak memory / gradients"]
    note = (
        f"Forward + backward, float32, {where(chosen)}, inputs from memory as in a training step; {runs_of(chosen)}. "
        "Eager is the fastest of the reference, forms people write, some of them for speed, and torch's own op."
    )
    return f"{note}\n\n{markdown(head, lines)}"


def small_table(table: pd.DataFrame) -> str:
    """64 elements: microseconds against F.mse_loss and eager."""
    chosen = pick(table, device="cpu", mode="hot", phase="both", incoming="one", dtype="float32")
    chosen = (
        chosen[(chosen.elements <= 64) & (chosen.elements > 30) & chosen.mse_loss.notna()] if len(chosen) else chosen
    )
    if chosen.empty:
        return "Not measured yet."
    lines = [
        [f"`{r.loss}`", number(r.fused * 1e6, 1), number(r.mse_loss * 1e6, 1), number(r.fused / r.mse_loss, 2, "×"),
         number(r.eager * 1e6, 1), ratio(r.eager / r.fused)]
        for r in chosen.itertuples()
    ]  # fmt: skip
    head = ["loss, 64 elements", "fused, µs", "F.mse_loss, µs", "fused / F.mse_loss", "eager, µs", "faster than eager"]
    return f"Forward + backward, arguments checked, float32, {where(chosen)}.\n\n{markdown(head, lines)}"


def gpu_table(table: pd.DataFrame) -> str:
    """The GPU's measurements, or that there are none."""
    chosen = pick(table, device="cuda", mode="cold", phase="both", incoming="one")
    if chosen.empty:
        return "Speed on a GPU: not measured."
    lines = [
        [f"`{r.loss}`", r.dtype, f"{int(r.elements):,}", number(r.fused * 1e6, 1), *ratios(r),
         number(r.copy_percent, 0, " %")]
        for r in chosen.itertuples()
    ]  # fmt: skip
    head = ["loss", "dtype", "elements", "fused, µs", "faster than eager", "than torch.compile", "of copy speed"]
    return f"Forward + backward, cold L2, {where(chosen)}.\n\n{markdown(head, lines)}"


def roof_table(rows: pd.DataFrame) -> str:
    """What a copy and c = a + b reach, the latest of each; empty without such rows."""
    chosen = rows[rows.loss == roofs.LOSS]
    if chosen.empty:
        return ""
    lines = [
        [machine, dtype, f"{int(elements):,}", rival, number(group.iloc[-1].floor_bytes_per_s / 1e9, 0)]
        for (machine, dtype, elements, rival), group in chosen.groupby(
            ["machine", "dtype", "elements", "rival"], sort=False
        )
    ]
    head = ["machine", "dtype", "elements", "what", "GB/s"]
    note = "`add` is c = a + b by torch, `add-N` with N loads of 16 bytes of each input per thread; cold caches."
    return f"## Roofs\n\n{note}\n\n{markdown(head, lines)}\n\n"


def long_tables(table: pd.DataFrame) -> str:
    """Every measurement at the default sizes: hot and cold, dtypes, phases, compile seconds left to the CSV."""
    parts = []
    for (device, mode, dtype, phase, incoming), group in (
        table.groupby(["device", "mode", "dtype", "phase", "incoming"], sort=False) if len(table) else ()
    ):
        group = default_size(group) if device == "cpu" else group
        if group.empty:
            continue
        lines = [
            [f"`{r.loss}`", r.shape.replace("x", " × "), number(r.ns, 3), number(r.low / r.elements * 1e9, 3),
             number(r.high / r.elements * 1e9, 3), number(r.best_eager / r.elements * 1e9), form(r.eager_form),
             number(r.compile / r.elements * 1e9), form(r.compile_form), *ratios(r), number(r.copy_percent, 0, " %"),
             r.commit[:7]]
            for r in group.itertuples()
        ]  # fmt: skip
        head = ["loss", "input", "fused", "lower quartile", "upper", "eager", "form", "torch.compile", "form",
                "eager / fused", "compile / fused", "of copy", "commit"]  # fmt: skip
        title = f"## {device}, {mode}, {dtype}, {phase}, incoming gradient {incoming}"
        parts.append(f"{title}\n\nns per element, {where(group)}; {runs_of(group)}.\n\n{markdown(head, lines)}")
    return "\n\n".join(parts)


def verdicts(rows: pd.DataFrame) -> str:
    """The bars of targets.py, the missed ones first."""
    found = sorted(targets.check(records(rows)), key=lambda verdict: verdict.met)
    lines = [
        [
            "met" if v.met else "**missed**",
            v.what,
            f"{v.value:.3g}" + (f" ({v.low:.3g}–{v.high:.3g})" if v.low < v.high else ""),
            f"{v.bound} {v.bar:g}",
            v.missed_by,
            number(v.copied),
        ]
        for v in found
    ]
    beyond = sum(not v.met and v.copied is not None and v.copied < v.bar for v in found)
    summary = (
        f"{sum(v.met for v in found)} of {len(found)} bars met on {' and '.join(rows.machine.unique())}. By a copy: "
        "the ratio that a copy of the bytes the loss must touch has in the same run, which no kernel bound by memory "
        f"exceeds; {beyond} of the missed bars lie beyond it."
    )
    return f"{summary}\n\n{markdown(['outcome', 'bar', 'measured', 'wanted', 'off by', 'by a copy'], lines)}"


def other_machines(folder: Path) -> str:
    """The bars and the main tables of each CPU beside the first; empty where there is none."""
    parts = []
    for machine in machines(read(folder), "cpu")[1:]:
        rows = load(folder, machine)
        table = compare(rows)
        parts.append(f"\n## Another CPU: {machine}\n\n{verdicts(rows)}\n\n{cpu_table(table)}\n\n{small_table(table)}\n")
    return "".join(parts)


def fill(path: Path, sections: dict[str, str]) -> list[str]:
    """Replace the text between the markers of each section the file has; the names of those found."""
    text, done = path.read_text(), []
    for name, body in sections.items():
        pattern = re.compile(rf"(<!-- {name}:begin -->).*?(<!-- {name}:end -->)", re.S)
        text, n = pattern.subn(lambda m, body=body: f"{m[1]}\n{body}\n{m[2]}", text)
        done += [name] * bool(n)
    path.write_text(text)
    return done


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("--readme", type=Path, default=HERE.parent / "README.md")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--output", type=Path, default=HERE, help="folder of RESULTS.md and plots/")
    arguments = parser.parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = load(arguments.results)
    table = compare(rows)
    sections = {
        "benchmark": cpu_table(table),
        "benchmark-few": few_table(table),
        "benchmark-small": small_table(table),
        "benchmark-gpu": gpu_table(table),
    }
    if arguments.readme.exists():
        print(f"{arguments.readme.name}: filled {', '.join(fill(arguments.readme, sections)) or 'nothing, no markers'}")
    if table.empty:
        return
    scale, folder = scale_report.section(arguments.results), arguments.output / "plots"
    own = custom_report.section(arguments.results)
    text = (
        "# Results\n\nWritten by `python -m benchmarks.report` from `results/*.csv`. Rows of before 2026-11-26 "
        "compiled only the reference, those of before 2026-11-28 10:40 knew no form of `lean.py`: their ratios are "
        "larger than to the fastest form. A row is of the commit beside it, as is the bar of its loss: code may have "
        "changed since.\n\n"
        "## Bars\n\n"
    )
    (arguments.output / "RESULTS.md").write_text(
        f"{text}{verdicts(rows)}\n\n{scale}{own}{roof_table(rows)}{long_tables(table)}\n"
        f"{other_machines(arguments.results)}"
    )
    for path in plots.draw(table, folder) + scale_report.draw(arguments.results, folder):
        print(path.name)


if __name__ == "__main__":
    main()

"""Tables and plots of results/scale/*.csv, for the report: time and memory of losses with a matrix product in them."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd

from .scale import CHUNKED, EAGER, FUSED, LIMIT, OUT_OF_MEMORY, SMALL, WORKS

MIB = 1 << 20
# Of each loss at its bar: times as fast as a form, and MiB beyond the gradients.
SPEED = {
    "clip_loss": {EAGER: 1.9}, "linear_cross_entropy": {EAGER: 1.05, CHUNKED: 1.5}, "siglip_loss": {EAGER: 1.5},
    "sup_con_loss": {EAGER: 3.0}, "triplet_batch_hard_loss": {EAGER: 2.0},
}  # fmt: skip
MEMORY = {"clip_loss": 72} | {work.loss: 64 for work in WORKS if work.loss != "clip_loss"}
LOOKS = {FUSED: ("#0072B2", "o", "-"), EAGER: ("#E69F00", "s", "--"), CHUNKED: ("#009E73", "^", "-.")}


def load(folder: Path) -> pd.DataFrame:
    """All rows; an empty table where nothing was measured."""
    files = sorted((folder / "scale").glob("*.csv"))
    return pd.concat([pd.read_csv(file) for file in files], ignore_index=True) if files else pd.DataFrame()


def beyond(row) -> float:
    """MiB beyond the gradients; NaN where not measured."""
    return (row.memory_bytes - row.gradient_bytes) / MIB


def told(row) -> str:
    return OUT_OF_MEMORY if row.outcome == OUT_OF_MEMORY else "-" if pd.isna(row.memory_bytes) else f"{beyond(row):.0f}"


def milliseconds(row) -> str:
    return "-" if pd.isna(row.seconds) else f"{row.seconds * 1e3:.3g}"


def verdict(met: bool, bar: float, text: str) -> str:
    return f"{text} (≥ {bar:g}: {'met' if met else '**missed**'})"


def line(loss: str, n: int, rows: dict) -> list[str]:
    """One row of the table: of a loss at one size, its forms by name."""
    fused, others = rows[FUSED], [rows[f] for f in (EAGER, CHUNKED) if f in rows]
    at_bar = n == next(work.bar for work in WORKS if work.loss == loss)
    speeds = []
    for other in others:
        value, bar = other.seconds / fused.seconds, SPEED.get(loss, {}).get(other.form) if at_bar else None
        bar = 1.0 if n < SMALL and other.form == EAGER else bar
        text = told(other) if other.outcome == OUT_OF_MEMORY else "-" if pd.isna(value) else f"{value:.2f}×"
        speeds.append(verdict(value >= bar, bar, text) if bar else text)
    memory = told(fused)
    if at_bar:
        memory += f" (≤ {MEMORY[loss]}: {'met' if beyond(fused) <= MEMORY[loss] else '**missed**'})"
    speeds += ["-"] * (2 - len(speeds))
    return [f"`{loss}`", fused.shape_text, str(n), milliseconds(fused), *speeds, memory,
            *[told(o) for o in others], *["-"] * (2 - len(others))]  # fmt: skip


def measured(folder: Path, losses: set[str] | None = None) -> str:
    """The tables of these losses, of all by default, and how they were measured; empty without measurements."""
    table = load(folder)
    if losses is not None and not table.empty:
        table = table[table.loss.isin(losses)]
    if table.empty:
        return ""
    return "\n\n".join(on_machine(rows.reset_index(drop=True)) for _, rows in table.groupby("machine", sort=False))


def on_machine(table: pd.DataFrame) -> str:
    """The table of one machine's rows."""
    table = table.rename(columns={"shape": "shape_text"})
    lines = [
        line(loss, n, {row.form: row for row in group.itertuples()})
        for (loss, n), group in table.groupby(["loss", "n"], sort=False)
    ]
    head = ["loss", "shape", "N", "ms", "than eager", "than torch's chunked", "MiB beyond gradients", "eager's",
            "torch's chunked"]  # fmt: skip
    rule = ["---", "---"] + ["---:"] * (len(head) - 2)
    views = "`nt_xent_loss`: two views of N / 2. " if "nt_xent_loss" in set(table.loss) else ""
    note = (
        f"Forward + backward, float32, {table.machine[0]}, torch {table.torch[0]}. Times of one process, the forms "
        f"call by call; memory of a fresh process each, in which a form may take {LIMIT // MIB} MiB beyond its inputs. "
        f"{views}Below {SMALL} rows the bar is not to be slower than eager."
    )
    cells = [head, rule, *lines]
    return f"{note}\n\n" + "\n".join("| " + " | ".join(c) + " |" for c in cells)


def section(folder: Path) -> str:
    """For RESULTS.md; empty without measurements."""
    text = measured(folder)
    return text and f"## Scale\n\n{text}\n\n"


def draw(folder: Path, plots: Path) -> list[Path]:
    """Time and memory against N of each loss measured at several sizes, on the first machine that it was."""
    table = load(folder)
    made = {}
    for (_, loss), rows in table.groupby(["machine", "loss"], sort=False) if len(table) else ():
        if loss not in made and (rows[rows.form == FUSED].memory_bytes.notna()).sum() > 2:
            plots.mkdir(parents=True, exist_ok=True)
            made[loss] = curves(loss, rows, plots / f"scale_{loss}.png")
    return list(made.values())


def curves(loss: str, rows: pd.DataFrame, path: Path) -> Path:
    figure, (memory, time) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for form, (colour, marker, style) in LOOKS.items():
        of = rows[rows.form == form].sort_values("n")
        if of.empty:
            continue
        look = dict(color=colour, marker=marker, ls=style, label=form)
        kept, ended = of[of.memory_bytes.notna()], of[of.outcome == OUT_OF_MEMORY]
        memory.plot(kept.n, [(m - g) / MIB for m, g in zip(kept.memory_bytes, kept.gradient_bytes)], **look)
        timed = of[of.seconds.notna()]
        time.plot(timed.n, timed.seconds * 1e3, **look)
        for n in ended.n:
            memory.plot(n, LIMIT / MIB, marker="X", ms=12, color=colour, ls="none", clip_on=False)
            memory.annotate(f"{form}:\n{OUT_OF_MEMORY}", (n, LIMIT / MIB), xytext=(-8, -30),
                            textcoords="offset points", ha="right", fontsize=8, color=colour)  # fmt: skip
    memory.axhline(LIMIT / MIB, color="#666666", lw=0.8)
    memory.set(title=f"MiB beyond inputs and gradients, limit {LIMIT // MIB}", xlabel="N", xscale="log", yscale="log")
    time.set(title="ms, forward + backward", xlabel="N", xscale="log", yscale="log")
    for axes in (memory, time):
        sizes = sorted(rows.n[rows.memory_bytes.notna()] if axes is memory else rows.n)
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    time.legend()
    figure.suptitle(f"{loss}, {rows['shape'].iloc[0]}, float32")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path

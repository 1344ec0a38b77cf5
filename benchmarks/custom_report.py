"""The tables of results/custom/*.csv, for the report: custom losses beside the built-in ones, and the gallery."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from .custom import BUILT_IN, COMPILE, CUSTOM, EAGER

WITHIN = 1.15  # of the built-in's time
FASTER = 2.0  # than torch.compile, of a built-in's formula with an exponential


def load(folder: Path) -> pd.DataFrame:
    """A line for each loss, its forms' ratios as columns; an empty table where nothing was measured."""
    files = sorted((folder / "custom").glob("*.csv"))
    if not files:
        return pd.DataFrame()
    rows = pd.concat([pd.read_csv(file, dtype={"shape": str}) for file in files], ignore_index=True)
    key = ["source", "loss"]
    ratios = rows.pivot_table(index=key, columns="form", values="ratio", sort=False)
    return rows[rows.form == CUSTOM].set_index(key).join(ratios).reset_index()


def told(value: float, met: bool | None = None, bar: str = "") -> str:
    text = "-" if pd.isna(value) else f"{value:.2f}×"
    return text if met is None else f"{text} ({bar}: {'met' if met else '**missed**'})"


def line(row) -> list[str]:
    built_in, compiled = 1 / row[BUILT_IN] if BUILT_IN in row else float("nan"), row[COMPILE]
    first = [f"`{row.loss}`", row["shape"].replace("x", " × "), f"{row.seconds * 1e3:.2f}"]
    if row.source == "textbook":
        first.append(told(built_in, built_in <= WITHIN, f"≤ {WITHIN:g}"))
    barred = row.exponential and row.source == "textbook"
    than = told(compiled, compiled >= FASTER, f"≥ {FASTER:g}") if barred else told(compiled)
    return [*first, told(row[EAGER]), than, f"{row.peak_bytes / row.gradient_bytes:.2f}×"]


def section(folder: Path) -> str:
    """For RESULTS.md; empty without measurements."""
    table = load(folder)
    if table.empty:
        return ""
    first = table.iloc[0]
    parts = [
        "## Custom losses\n\nForward + backward, float32, one thread, "
        f"{first.machine}, torch {first.torch}: seconds of that thread alone, the forms call by call in one process; "
        "the median of the ratios of the turns. torch.compile and eager run the same formula. The bar beside "
        "torch.compile is for built-in losses with an exponential: most others are bound by memory."
    ]
    for source, title in (
        ("textbook", "The built-in elementwise losses by their textbook formulas (`benchmarks/textbook.py`)."),
        ("gallery", "Losses of the literature (`tests/gallery.py`)."),
    ):
        head = ["loss", "shape", "ms", *["of the built-in's time"] * (source == "textbook"), "faster than eager",
                "than torch.compile", "peak memory / gradients"]  # fmt: skip
        lines = [line(row) for _, row in table[table.source == source].iterrows()]
        cells = [head, ["---", "---"] + ["---:"] * (len(head) - 2), *lines]
        parts.append(f"{title}\n\n" + "\n".join("| " + " | ".join(c) + " |" for c in cells))
    return "\n\n".join(parts) + "\n\n"

"""The rows of benchmarks/results/*.csv as tables: one line for each measurement, ratios to the fused loss beside it.

A ratio is always of two rows of one run. All runs of the sources measured last count: the median of their ratios, and
the least and the largest beside it.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from . import roofs
from .cases import ALL
from .rows import COLUMNS, RESULTS
from .targets import WIDEST_FIRST

ORDER = {case.key: i for i, case in enumerate(ALL)}
RIVALS = ("eager", "compile", "compile-max", "torch", "mse_loss")
SAME = ["machine", "device", "threads", "loss", "dtype", "elements", "mode", "incoming", "phase"]
WIDTH = {isa: i for i, isa in enumerate(WIDEST_FIRST)}


def read(folder: Path = RESULTS) -> pd.DataFrame:
    """Every row of every machine."""
    files = sorted(folder.glob("*.csv"))
    if not files:
        return pd.DataFrame(columns=COLUMNS)
    text = dict.fromkeys(("isa", "form", "run", "commit", "shape"), str)
    rows = pd.concat([pd.read_csv(f, dtype=text, keep_default_na=True) for f in files], ignore_index=True)
    rows["isa"] = rows["isa"].fillna("")
    return rows


def machines(rows: pd.DataFrame, device: str) -> list[str]:
    """The machines with such a device, the one measured last at the front: its rivals are the fastest forms known."""
    return list(rows[rows.device == device].groupby("machine").run.max().sort_values(ascending=False).index)


def load(folder: Path = RESULTS, machine: str = "") -> pd.DataFrame:
    """The rows of `machine`, or of the first of each device; of every measurement those of the sources of its latest
    run with a fused row. Memory has processes of its own: where a run left it out, the latest figure is used."""
    rows = read(folder)
    if rows.empty:
        return rows
    shown = [machine] if machine else [machines(rows, device)[0] for device in rows.device.unique()]
    rows = rows[rows.machine.isin(shown)].copy()
    rows["commit"] = rows["commit"].fillna("")
    fused = rows[rows.rival == "fused"].groupby(SAME, sort=False).commit.last().rename("latest").reset_index()
    rows = rows.merge(fused, on=SAME, how="left")
    same = ["machine", "device", "loss", "rival", "dtype", "elements", "phase"]
    peaks = rows.sort_values("run").groupby(same, sort=False).peak_bytes.last()  # the last that is not missing
    rows["peak_bytes"] = rows.peak_bytes.fillna(rows[same].join(peaks, on=same).peak_bytes)
    kept = (rows.commit == rows.latest) | (rows.rival == "copy") | (rows.loss == roofs.LOSS)
    return rows[kept].drop(columns="latest").reset_index(drop=True)


def lines_of_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """One line for each measurement and run: seconds by rival, ratios to fused, percent of the copy."""
    found = []
    for key, group in rows[rows.rival != "copy"].groupby([*SAME, "run"], sort=False):
        fused = group[group.rival == "fused"]
        if fused.empty:
            continue
        fused = fused.assign(rank=[WIDTH.get(isa, len(WIDTH)) for isa in fused.isa]).sort_values("rank").iloc[0]
        line = dict(zip([*SAME, "run"], key)) | {"fused": fused.median_s, "low": fused.q1_s, "high": fused.q3_s}
        line |= {"copy_percent": fused.copy_percent, "shape": fused["shape"], "commit": fused.commit}
        line |= {"peak": fused.peak_bytes, "gradients": fused.gradient_bytes, "torch_version": fused.torch}
        line |= {"isa": fused.isa, "eager_form": "", "compile_form": ""}
        for _, other in group[group.rival != "fused"].iterrows():
            line[other.rival] = other.median_s
            line[f"{other.rival}_peak"] = other.peak_bytes
            line[f"{other.rival}_form"] = other.form
        found.append(line)
    table = pd.DataFrame(found)
    if table.empty:
        return table
    for name in RIVALS:
        if name not in table:
            table[name] = float("nan")
    own = table.torch <= table.eager.fillna(float("inf"))
    table["eager_form"] = table.eager_form.where(~own, "torch")
    table["best_eager"] = table[["eager", "torch"]].min(axis=1)
    table["eager_ratio"] = table.best_eager / table.fused
    table["compile_ratio"] = table[["compile", "compile-max"]].min(axis=1) / table.fused
    return table


def compare(rows: pd.DataFrame) -> pd.DataFrame:
    """One line for each measurement: medians of its runs, `runs`, and of the ratios the least and the largest."""
    table = lines_of_runs(rows)
    if table.empty:
        return table
    groups = table.groupby(SAME, sort=False)
    numbers = [name for name in table.select_dtypes("number") if name not in SAME]
    texts = [name for name in table if name not in numbers and name not in SAME]
    found = groups[numbers].median().join(groups[texts].last()).join(groups.size().rename("runs"))
    for name in ("eager_ratio", "compile_ratio"):
        found[f"{name}_low"], found[f"{name}_high"] = groups[name].min(), groups[name].max()
    found = found.reset_index()
    found["ns"] = found.fused / found.elements * 1e9
    return found.sort_values("loss", key=lambda c: c.map(ORDER).fillna(999), kind="stable")


def pick(table: pd.DataFrame, **wanted) -> pd.DataFrame:
    for name, value in wanted.items():
        table = table[table[name] == value] if not table.empty else table
    return table


def records(rows: pd.DataFrame) -> list[dict]:
    """The rows as they were written: an empty cell as ""."""
    return [
        {name: "" if not isinstance(v, str) and pd.isna(v) else v for name, v in row.items()}
        for row in rows.to_dict("records")
    ]


def default_size(table: pd.DataFrame) -> pd.DataFrame:
    """The lines measured at the default shape of their case."""
    shapes = {case.key: "x".join(map(str, case.shape)) for case in ALL}
    return table[[shapes.get(loss) == shape for loss, shape in zip(table.loss, table["shape"])]]

"""The rows of benchmarks/results/*.csv as tables: one line for each measurement, ratios to the fused loss beside it.

A ratio is always of two rows of one run; of several runs of the same measurement the latest counts.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from . import roofs
from .cases import ALL
from .rows import COLUMNS, RESULTS

ORDER = {case.key: i for i, case in enumerate(ALL)}
SAME = ["machine", "device", "threads", "loss", "dtype", "elements", "mode", "incoming", "phase"]


def load(folder: Path = RESULTS) -> pd.DataFrame:
    """The rows of the machine measured last of each device; of every measurement those of its latest run with a fused
    row. Memory has processes of its own: where that run left it out, the figure of the latest one is used."""
    files = sorted(folder.glob("*.csv"))
    if not files:
        return pd.DataFrame(columns=COLUMNS)
    text = {"isa": str, "form": str, "run": str, "commit": str}
    rows = pd.concat([pd.read_csv(f, dtype=text, keep_default_na=True) for f in files], ignore_index=True)
    rows["isa"] = rows["isa"].fillna("")
    last = rows.sort_values("run").groupby("device").machine.last()
    rows = rows[rows.machine == rows.device.map(last)]
    fused = rows[rows.rival == "fused"].groupby(SAME, sort=False).run.last().rename("latest").reset_index()
    rows = rows.merge(fused, on=SAME, how="left")
    same = ["machine", "device", "loss", "rival", "dtype", "elements", "phase"]
    peaks = rows.sort_values("run").groupby(same, sort=False).peak_bytes.last()  # the last that is not missing
    rows["peak_bytes"] = rows.peak_bytes.fillna(rows[same].join(peaks, on=same).peak_bytes)
    kept = (rows.run == rows.latest) | (rows.rival == "copy") | (rows.loss == roofs.LOSS)
    return rows[kept].drop(columns="latest").reset_index(drop=True)


def compare(rows: pd.DataFrame) -> pd.DataFrame:
    """One line for each measurement: ns per element by rival, ratios to fused, percent of the copy."""
    found = []
    for key, group in rows[rows.rival != "copy"].groupby(SAME, sort=False):
        fused = group[group.rival == "fused"]
        if fused.empty:
            continue
        rank = {"avx512": 0, "avx2": 1}
        fused = fused.assign(rank=[rank.get(isa, 2) for isa in fused.isa]).sort_values("rank").iloc[0]
        line = dict(zip(SAME, key)) | {"fused": fused.median_s, "low": fused.q1_s, "high": fused.q3_s}
        line |= {"copy_percent": fused.copy_percent, "shape": fused["shape"], "commit": fused.commit}
        line |= {"peak": fused.peak_bytes, "gradients": fused.gradient_bytes, "torch_version": fused.torch}
        line |= {"isa": fused.isa, "run": fused.run}
        for _, other in group[group.rival != "fused"].iterrows():
            line[other.rival] = other.median_s
            line[f"{other.rival}_peak"] = other.peak_bytes
            line[f"{other.rival}_form"] = other.form
        found.append(line)
    table = pd.DataFrame(found)
    if table.empty:
        return table
    for name in ("eager", "compile", "compile-max", "torch", "mse_loss"):
        if name not in table:
            table[name] = float("nan")
    table["best_eager"] = table[["eager", "torch"]].min(axis=1)
    table["eager_ratio"] = table.best_eager / table.fused
    table["compile_ratio"] = table[["compile", "compile-max"]].min(axis=1) / table.fused
    table["ns"] = table.fused / table.elements * 1e9
    return table.sort_values("loss", key=lambda c: c.map(ORDER).fillna(999), kind="stable")


def pick(table: pd.DataFrame, **wanted) -> pd.DataFrame:
    for name, value in wanted.items():
        table = table[table[name] == value] if not table.empty else table
    return table


def default_size(table: pd.DataFrame) -> pd.DataFrame:
    """The lines measured at the default shape of their case."""
    shapes = {case.key: "x".join(map(str, case.shape)) for case in ALL}
    return table[[shapes.get(loss) == shape for loss, shape in zip(table.loss, table["shape"])]]

"""The plots of the report: speed against the rivals, distance from the copy, time against size."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd

from . import targets
from .measurements import default_size, pick

# Okabe and Ito: told apart by colour-blind readers
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#666666"

SIZES_SHOWN = [
    "binary_cross_entropy_with_logits", "sigmoid_focal_loss", "cross_entropy", "dice_loss", "contrastive_loss",
    "kl_div_with_logits",
]  # fmt: skip


def draw(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Every plot the table has data for."""
    folder.mkdir(parents=True, exist_ok=True)
    both = pick(table, phase="both", incoming="one", dtype="float32")
    cold = pick(both, device="cpu", mode="cold")
    hot = pick(both, device="cpu", mode="hot")
    made = []
    if len(cold) and len(default_size(cold)):
        made.append(
            speed(default_size(cold), folder / "cpu_speed.png", "CPU, 2 threads, default sizes, float32, cold caches")
        )
        made.append(roof(default_size(cold), folder / "cpu_roof.png"))
    if len(hot) and hot.elements.nunique() > 3:
        made.append(sizes(hot, folder / "cpu_sizes.png"))
    cuda = pick(both, device="cuda", mode="cold")
    if len(cuda):
        big = cuda[cuda.elements >= targets.CUDA_ELEMENTS * 0.9]
        if len(big):
            commits = " and ".join(dict.fromkeys(commit[:7] for commit in big.commit))
            name = f"{big.iloc[0].machine.upper()}, 2^26 elements, cold L2\ncommits {commits}"
            made.append(speed(big, folder / f"{big.iloc[0].machine}_speed.png", name))
    return made


def _bars(count: int):
    return plt.subplots(figsize=(9, 0.42 * count + 1.4), layout="constrained")


def speed(table: pd.DataFrame, path: Path, title: str) -> Path:
    """Times as fast as eager and torch.compile; a tick marks the bar that was set beforehand."""
    table = table.sort_values("eager_ratio").reset_index(drop=True)
    figure, axes = _bars(len(table))
    for offset, column, colour, label in (
        (0.19, "eager_ratio", BLUE, "eager PyTorch"), (-0.19, "compile_ratio", ORANGE, "torch.compile"),
    ):  # fmt: skip
        places = [i + offset for i in range(len(table))]
        axes.barh(places, table[column], height=0.36, color=colour, label=f"against {label}")
        for place, value in zip(places, table[column]):
            if not pd.isna(value):
                inside = "white" if colour == BLUE and value > 0.7 else "black"
                axes.text(0.52, place, f"{value:.1f}", va="center", fontsize=8, color=inside)
    bars = targets.CUDA if table.iloc[0].device == "cuda" else targets.CPU
    marked = False
    for i, loss in enumerate(table.loss):
        for offset, bar in zip((0.19, -0.19), bars.get(loss, ())):
            if bar:
                label = None if marked else "target"
                axes.plot([bar, bar], [i + offset - 0.18, i + offset + 0.18], color="black", lw=2, label=label)
                marked = True
    axes.axvline(1, color=GREY, lw=0.8)
    axes.set_xscale("log")
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 50, 100], ["0.5", "1", "2", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.set_xlim(0.5, max(2.0, table[["eager_ratio", "compile_ratio"]].max().max() * 1.4))
    axes.set_yticks(range(len(table)), table.loss)
    axes.set_ylim(-0.6, len(table) - 0.4)
    axes.set_xlabel("times as fast (logarithmic), forward + backward")
    axes.set_title(title)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right")
    return _save(figure, path)


def roof(table: pd.DataFrame, path: Path) -> Path:
    """Share of a plain copy's speed over the bytes that cannot be avoided."""
    table = table[~table.loss.isin(targets.COMPUTE_BOUND)].sort_values("copy_percent").reset_index(drop=True)
    figure, axes = _bars(len(table))
    axes.barh(range(len(table)), table.copy_percent, height=0.6, color=GREEN)
    for i, value in enumerate(table.copy_percent):
        axes.text(2, i, f"{value:.0f}", va="center", fontsize=8, color="white")
    axes.axvline(100, color="black", lw=1.2, ls="--")
    axes.set_yticks(range(len(table)), table.loss)
    axes.set_ylim(-0.6, len(table) - 0.4)
    axes.set_xlim(0, max(110, table.copy_percent.max() * 1.1))
    axes.set_xlabel("percent of the speed of a copy (dashed); above it, a pass found its bytes in the cache")
    axes.set_title("CPU, 2 threads, float32, cold caches")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return _save(figure, path)


def sizes(table: pd.DataFrame, path: Path) -> Path:
    """Times as fast as the fastest eager form against the number of elements, six losses."""
    shown = [loss for loss in SIZES_SHOWN if loss in set(table.loss)] or list(dict.fromkeys(table.loss))[:6]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(4 * columns, 3.2 * rows), layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, loss in zip(grid.flat, shown):
        lines = table[table.loss == loss].sort_values("elements")
        axes.loglog(lines.elements, lines.eager / lines.fused, color=BLUE, marker="o", ms=4)
        axes.axhline(1, color="black", lw=1)
        axes.set_title(loss, fontsize=9)
        axes.grid(alpha=0.3)
    for axes in grid[-1]:
        axes.set_xlabel("elements")
    for axes in grid[:, 0]:
        axes.set_ylabel("times as fast")
    figure.suptitle("Eager PyTorch / fused: forward + backward, float32, CPU, 2 threads, hot caches")
    return _save(figure, path)


def _save(figure, path: Path) -> Path:
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path

"""One plotting style for all demos: the Okabe-Ito colours, which people with any colour vision tell apart."""

from __future__ import annotations

import re

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, YELLOW = "#CC79A7", "#56B4E9", "#222222", "#F0E442"
COLOURS = [BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK]
DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))]

plt.rcParams.update({
    "figure.dpi": 100, "savefig.dpi": 100, "figure.constrained_layout.use": True, "figure.facecolor": "white",
    "font.size": 11, "axes.titlesize": 12, "axes.titleweight": "bold", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#DDDDDD", "grid.linewidth": 0.6,
    "axes.axisbelow": True, "legend.framealpha": 0.9, "legend.edgecolor": "none", "lines.linewidth": 2,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS), "image.cmap": "gray", "image.interpolation": "nearest",
})  # fmt: skip


def slug(text: str) -> str:
    """`text` as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def save(figure, path) -> None:
    figure.savefig(path)
    plt.close(figure)


def axes(columns: int = 1, rows: int = 1, width: float = 6.0, height: float = 4.0):
    """A figure of rows x columns axes of that size in inches each; a single one is returned bare."""
    figure, grid = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    return figure, (grid[0, 0] if rows == columns == 1 else grid.ravel())


def curves(histories: dict, title: str = "Loss by epoch", log: bool = False, ylabel: str = "loss"):
    """Training (solid) and validation (dashed) losses per epoch of one or more trainings."""
    figure, axis = axes(width=7)
    draw_curves(axis, histories, title, log, ylabel)
    return figure


def draw_curves(axis, histories: dict, title: str, log: bool = False, ylabel: str = "loss") -> None:
    validated = any(history["validation"] for history in histories.values())
    for number, (name, history) in enumerate(histories.items()):
        colour, prefix = COLOURS[number % len(COLOURS)], "" if len(histories) == 1 else f"{name}, "
        solid = "-" if validated else DASHES[number % len(DASHES)]
        for part, dash in (("train", solid), ("validation", "--")):
            values = history[part]
            if values:
                marker = "o" if len(values) < 3 else None
                epochs = np.arange(1, len(values) + 1)
                look = {"linewidth": 4.5, "alpha": 0.5} if number == 0 and len(histories) == 2 else {}  # may coincide
                axis.plot(epochs, values, dash, color=colour, marker=marker, label=prefix + _WORDS[part], **look)
    axis.set(title=title, xlabel="epoch", ylabel=ylabel)
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    if log:
        axis.set_yscale("log")
    axis.legend()


_WORDS = {"train": "training", "validation": "validation"}


def image_grid(images, columns: int, titles=None, *, cell: float = 1.1, title: str = "", colours=None, cmap="gray"):
    """Pictures [n, H, W] or [n, H, W, 3] in [0, 1] row by row, each under its title."""
    rows = -(-len(images) // columns)
    shape = np.asarray(images[0]).shape
    titled = 0 if titles is None else sum(any(titles[row * columns : (row + 1) * columns]) for row in range(rows))
    height = (cell * shape[0] / shape[1] + 0.05) * rows + 0.25 * titled + (0.5 if title else 0)
    figure, grid = plt.subplots(rows, columns, figsize=(cell * columns + 0.2, height), squeeze=False)
    for number, axis in enumerate(grid.ravel()):
        axis.axis("off")
        if number < len(images):
            axis.imshow(np.clip(np.asarray(images[number]), 0, 1), cmap=cmap, vmin=0, vmax=1)
            if titles is not None and titles[number]:
                axis.set_title(titles[number], fontsize=10, fontweight="normal",
                               color=BLACK if colours is None else colours[number])  # fmt: skip
    if title:
        figure.suptitle(title, fontweight="bold", fontsize=12)
    return figure

"""Find small handwritten digits in photographs: which pixels are ink?

Real digits are drawn faintly on crops of scikit-learn's two photographs, so that one pixel in fifty is ink. The same
small U-Net, from the same start, learns with the losses of overlap (Dice, Jaccard, Tversky, Dice + cross-entropy) and
with the plain binary cross-entropy.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from sklearn.metrics import f1_score, jaccard_score, recall_score
from torch import nn

from . import cli, data, plots
from .training import Batches, fit, predict, step_time, warm_up_and_decay

SIDE, SMALL = 40, 10  # pixels of a canvas, of a digit on it


def options(parser) -> None:
    data.data_option(parser)
    parser.add_argument("--epochs", type=cli.positive_int, default=10)
    parser.add_argument("--images", type=cli.count, default=256, help="training canvases (default 256)")


def canvases(digits, count, columns, generator):
    """Grey canvases [n, 1, 40, 40] and their masks; the ground comes from those columns (shares) of the photographs."""
    photographs = [torch.from_numpy(image.mean(axis=-1)).float() / 255 for image in load_sample_images().images]
    chosen = digits[torch.randint(len(digits), (count,), generator=generator)]
    small = nn.functional.interpolate(chosen, size=(SMALL, SMALL), mode="bilinear", antialias=True)
    images, masks = torch.zeros(count, 1, SIDE, SIDE), torch.zeros(count, 1, SIDE, SIDE)
    for number in range(count):
        photograph = photographs[number % 2]
        height, width = photograph.shape
        drawn = torch.rand(4, generator=generator)
        top = int(drawn[0] * (height - SIDE))
        left = int((columns[0] + drawn[1] * (columns[1] - columns[0])) * (width - SIDE))
        ground = photograph[top : top + SIDE, left : left + SIDE]
        y, x = (int(c * (SIDE - SMALL)) for c in drawn[2:])
        ink = torch.zeros(SIDE, SIDE)
        ink[y : y + SMALL, x : x + SMALL] = small[number, 0]
        images[number, 0] = 0.7 * ground + 0.3 * ink
        masks[number, 0] = (ink > 0.5).float()
    return images, masks


class SmallUNet(nn.Module):
    """Grey [n, 1, H, W] -> logits of ink [n, 1, H, W]; two scales and a skip connection."""

    def __init__(self, width: int = 8):
        super().__init__()

        def block(*channels):
            return nn.Sequential(*(
                layer for i, o in pairwise(channels)
                for layer in (nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())
            ))  # fmt: skip

        self.fine, self.coarse = block(1, width, width), block(width, 2 * width, 2 * width)
        self.last = block(3 * width, width)
        self.down, self.up, self.out = nn.MaxPool2d(2), nn.Upsample(scale_factor=2), nn.Conv2d(width, 1, 1)

        nn.init.constant_(self.out.bias, -2.0)  # ink is rare, so the first guess is none

    def forward(self, x):
        fine = self.fine(x)
        return self.out(self.last(torch.cat([fine, self.up(self.coarse(self.down(fine)))], dim=1)))


LOSSES = {
    "BCE": ("binary_cross_entropy_with_logits", lambda losses, out, batch:
            losses.binary_cross_entropy_with_logits(out, batch[1])),
    "Dice": ("dice_loss", lambda losses, out, batch: losses.dice_loss(out, batch[1])),
    "Jaccard": ("jaccard_loss", lambda losses, out, batch: losses.jaccard_loss(out, batch[1])),
    "Tversky": ("tversky_loss", lambda losses, out, batch:
                losses.tversky_loss(out, batch[1], alpha=0.3, beta=0.7)),
    "Dice + BCE": ("dice_cross_entropy_loss", lambda losses, out, batch:
                   losses.dice_cross_entropy_loss(out, batch[1], activation="sigmoid")),
}  # fmt: skip


def run(session) -> None:
    o = session.options
    digits = data.load(session)
    count, epochs = (min(o.images, 120), min(o.epochs, 8)) if session.quick else (o.images, o.epochs)
    images, masks = canvases(digits.train_images, count, (0.0, 0.6), session.generator(1))
    test, truth = canvases(digits.test_images, 60 if session.quick else 150, (0.7, 1.0), session.generator(2))
    session.say(f"{count} canvases of {SIDE} x {SIDE}, ink on {masks.mean():.1%} of the pixels; {len(test)} "
                "test canvases: unseen digits on unseen parts of the photographs")  # fmt: skip

    def optimizer(parameters):
        return torch.optim.Adam(parameters, lr=0.01)

    found, logits = {}, {}
    for kind, (function, criterion) in LOSSES.items():
        torch.manual_seed(o.seed)
        model = SmallUNet().to(session.device)
        if not found:
            found["untrained"] = judge(session, "untrained", truth, predict(model, test, session.device, 64))
        batches = Batches(images, masks, size=8, device=session.device, generator=session.generator(3))
        adam = optimizer(model.parameters())
        schedule = warm_up_and_decay(adam, 1, epochs * len(batches))
        fit(session, kind, model, batches, criterion, adam, epochs=epochs, scheduler=schedule)
        logits[kind] = predict(model, test, session.device, 64)
        found[kind] = judge(session, kind, truth, logits[kind])
        step_time(session, f"{function} (masks)" if kind == "BCE" else function, model, batches, criterion, optimizer,
                  steps=6 if session.quick else 12)  # fmt: skip
    header = ["unseen canvases", "Dice score", "IoU", "ink found"]
    session.table(header, [[kind, *values.values()] for kind, values in found.items()])
    draw(session, found, logits, test, truth)


def judge(session, kind, truth, logits) -> dict:
    """Scores of the pixels called ink at probability 1/2: Dice (F1), intersection over union, recall."""
    true, called = truth.flatten().bool().numpy(), (logits > 0).flatten().numpy()
    values = {"dice": float(f1_score(true, called, zero_division=0)),
              "iou": float(jaccard_score(true, called, zero_division=0)),
              "recall": float(recall_score(true, called, zero_division=0))}  # fmt: skip
    session.metrics(**{f"{plots.slug(kind)}_{name}": value for name, value in values.items()})
    return values


def draw(session, found, logits, test, truth) -> None:
    rows, columns = 5, ["canvas", "true ink", *logits]
    pictures, titles = [], []
    for row in range(rows):
        grey = test[row, 0].numpy()
        pictures += [np.stack([grey] * 3, axis=-1), np.stack([truth[row, 0].numpy()] * 3, axis=-1)]
        for kind in logits:
            called, true = (logits[kind][row, 0] > 0).numpy(), truth[row, 0].numpy() > 0
            colours = np.zeros((*grey.shape, 3))
            colours[called & true], colours[called & ~true], colours[~called & true] = (
                (1.0, 1.0, 1.0), (0.90, 0.62, 0.0), (0.34, 0.71, 0.91),
            )  # fmt: skip
            pictures.append(colours)
        titles += columns if row == 0 else [""] * len(columns)
    title = "Ink found on unseen canvases: white right, orange false alarm, blue missed"
    figure = plots.image_grid(pictures, len(columns), titles, cell=1.45, title=title)
    session.picture(figure, "masks.png", "Predicted ink for each loss: white right, orange false alarm, blue missed")

    figure, axis = plots.axes(width=7, height=3.8)
    names = list(logits)
    for number, (metric, label) in enumerate((("dice", "Dice score"), ("recall", "share of ink found"))):
        places = [i + (number - 0.5) * 0.38 for i in range(len(names))]
        bars = axis.bar(places, [found[name][metric] for name in names], 0.36, label=label, edgecolor="white",
                        color=(plots.BLUE, plots.ORANGE)[number], hatch="//" if number else None)  # fmt: skip
        axis.bar_label(bars, fmt="%.2f", fontsize=10)
    axis.set(title="Small objects: overlap losses against BCE", ylabel="score of unseen canvases", ylim=(0, 1.25),
             xticks=range(len(names)))  # fmt: skip
    axis.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axis.set_xticklabels(names)
    axis.grid(axis="x", visible=False)
    axis.legend(loc="upper center", ncols=2)
    session.picture(figure, "scores.png", "Dice score and share of ink found, by the loss of the training")

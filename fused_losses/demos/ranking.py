"""Search handwritten digits by number: for a query image, the images of the same digit first, then its neighbours.

Two small networks embed query and item. Trained with LambdaNDCG and with ApproxNDCG, for which only the order of the
scores counts (score: 3 x cosine), and with the squared error of each score (pointwise; score: the plain product, which
can take any value). Judged by NDCG@10 on images never seen.
"""

from __future__ import annotations

import torch
from sklearn.metrics import ndcg_score
from torch import nn

from . import cli, data, plots
from .training import Batches, finite, fit, step_time

CUT = 10  # NDCG@10


def options(parser) -> None:
    data.data_option(parser)
    parser.add_argument("--epochs", type=cli.positive_int, default=12)
    parser.add_argument("--lists", type=cli.count, default=1500, help="training queries (default 1500)")
    parser.add_argument("--items", type=cli.size, default=30, help="images to rank for each query (default 30)")


class TwoTowers(nn.Module):
    """Query indices [B] and item indices [B, n] into `images` -> scores [B, n]."""

    def __init__(self, cosine: bool, size: int = 16):
        super().__init__()
        self.cosine = cosine
        self.query, self.item = (
            nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, size)) for _ in range(2)
        )  # fmt: skip
        self.offset = nn.Parameter(torch.zeros(()))  # lets the pointwise loss fit the mean relevance

    def forward(self, images, queries, items):
        query, item = self.query(images[queries]), self.item(images)
        if self.cosine:
            query, item = 3 * nn.functional.normalize(query, dim=1), nn.functional.normalize(item, dim=1)
        return torch.einsum("bd,bnd->bn", query, item[items]) + self.offset


def make_lists(labels, count, items, generator):
    """Queries [count], items [count, n] and relevance [count, n]: 2 the same digit, 1 the digit next to it, else 0."""
    queries = torch.randint(len(labels), (count,), generator=generator)
    rows = torch.randint(len(labels), (count, items), generator=generator)
    apart = (labels[queries][:, None] - labels[rows]).abs()
    return queries, rows, (2 - apart).clamp(min=0).float()


def run(session) -> None:
    o = session.options
    digits = data.load(session).limit(10_000)
    count, epochs = (min(o.lists, 500), min(o.epochs, 8)) if session.quick else (o.lists, o.epochs)
    train = make_lists(digits.train_labels, count, o.items, session.generator(1))
    test = make_lists(digits.test_labels, 400, max(o.items, CUT), session.generator(2))
    session.say(f"{count} training queries of {o.items} images each, 400 test queries among unseen images")
    images = digits.train_images.flatten(1).to(session.device)
    kinds = {
        "LambdaNDCG": ("lambda_ndcg_loss", lambda losses, scores, batch: losses.lambda_ndcg_loss(scores, batch[2])),
        "ApproxNDCG": ("approx_ndcg_loss", lambda losses, scores, batch: losses.approx_ndcg_loss(scores, batch[2])),
        "pointwise": ("mse_loss", lambda losses, scores, batch: losses.mse_loss(scores, batch[2])),
    }

    def forward(model, batch):
        return model(images, batch[0], batch[1])

    def optimizer(parameters):
        return torch.optim.Adam(parameters, lr=0.001)

    found, models = {}, {}
    for kind, (function, criterion) in kinds.items():
        torch.manual_seed(o.seed)
        model = models[kind] = TwoTowers(kind != "pointwise").to(session.device)
        found.setdefault("untrained", judge(session, model, digits, test))
        batches = Batches(*train, size=32, device=session.device, generator=session.generator(3))
        fit(session, kind, model, batches, criterion, optimizer(model.parameters()), epochs=epochs, forward=forward)
        found[kind] = judge(session, model, digits, test)
        step_time(session, function, model, batches, criterion, optimizer, forward=forward)
    session.metrics(**{f"{plots.slug(kind)}_ndcg10": value for kind, value in found.items()})
    session.table(["unseen images", "NDCG@10"], [[kind, value] for kind, value in found.items()])
    draw(session, found, models, digits, test)


@torch.no_grad()
def rank(session, model, digits, test):
    model.eval()
    images = digits.test_images.flatten(1).to(session.device)
    scores = model(images, test[0].to(session.device), test[1].to(session.device)).cpu()
    return finite(scores, "a score")


def judge(session, model, digits, test) -> float:
    """NDCG@10 with gains 2^relevance - 1, of scikit-learn."""
    scores = rank(session, model, digits, test)
    return float(ndcg_score((2 ** test[2] - 1).numpy(), scores.numpy(), k=CUT))


def draw(session, found, models, digits, test) -> None:
    figure, axis = plots.axes(width=6.5, height=3.4)
    names = list(found)
    colours = ["#888888", plots.BLUE, plots.GREEN, plots.ORANGE]
    bars = axis.barh(names[::-1], [found[name] for name in names[::-1]], color=colours[::-1])
    axis.bar_label(bars, fmt=" %.4f")
    axis.set(
        title="Quality of the first ten results for unseen queries", xlabel="NDCG@10 (1 is perfect)", xlim=(0, 1.12)
    )
    axis.grid(axis="y", visible=False)
    session.picture(figure, "ndcg.png", "NDCG@10 before training and after it with each loss")

    torch.manual_seed(session.options.seed)
    sides = {"before training": TwoTowers(True).to(session.device), "after, ApproxNDCG": models["ApproxNDCG"]}
    pictures, titles, colours = [], [], []
    for row in range(3):
        for when, model in sides.items():
            order = rank(session, model, digits, [part[row : row + 1] for part in test])[0].argsort(descending=True)[:9]
            pictures.append(digits.test_images[test[0][row], 0])
            titles.append(f"query: {digits.test_labels[test[0][row]]}\n{when.split(',')[0].split()[0]}")
            colours.append(plots.BLACK)
            for item in order:
                pictures.append(digits.test_images[test[1][row, item], 0])
                relevance = int(test[2][row, item])
                titles.append(("off", "near", "same")[relevance])
                colours.append((plots.VERMILION, plots.BLACK, plots.BLUE)[relevance])
    title = "The first nine results, before and after ApproxNDCG: the same digit, the next one (near), another (off)"
    figure = plots.image_grid(pictures, 10, titles, cell=1.1, title=title, colours=colours)
    session.picture(figure, "results.png", "A query, left, and its first nine results: same digit, near digit, off")

"""Tell unusual samples from normal ones: handwritten 8s are normal, every other digit is an anomaly.

Three distances from the normal mean: the plain Euclidean one; the Mahalanobis one fitted to normal samples; and a
Mahalanobis one whose mean, Cholesky factor and embedding are trained by the fused loss on a few labelled anomalies.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score, roc_curve
from torch import nn

from .. import fit_gaussian, functional
from . import data, plots
from .cli import positive_float, positive_int
from .errors import DemoError
from .training import Batches, finite, fit, step_time


def options(parser) -> None:
    data.data_option(parser)
    parser.add_argument("--normal", type=int, choices=range(10), default=8, metavar="DIGIT", help="default 8")
    parser.add_argument("--anomalies", type=positive_int, default=150, help="labelled ones in training (default 150)")
    parser.add_argument("--features", type=positive_int, default=16, help="principal components kept (default 16)")
    parser.add_argument("--epochs", type=positive_int, default=40)
    parser.add_argument("--margin", type=positive_float, default=3.0, help="anomalies are pushed beyond it (default 3)")


class Detector(nn.Module):
    """Features [n, D] -> (embedding [n, D], mean [D], scale_tril [D, D]); starts as the fitted Gaussian."""

    def __init__(self, mean, scale_tril):
        super().__init__()
        size = len(mean)
        self.shift = nn.Sequential(nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, size))
        nn.init.zeros_(self.shift[2].weight)
        nn.init.zeros_(self.shift[2].bias)
        self.mean, self.scale_tril = nn.Parameter(mean.clone()), nn.Parameter(scale_tril.clone())

    def forward(self, x):
        return x + self.shift(x), self.mean, self.scale_tril


def run(session) -> None:
    o = session.options
    digits = data.load(session)
    if o.features > 64:
        raise DemoError(f"Expected --features of at most 64, got {o.features}.")
    normal = digits.train_labels == o.normal
    if int(normal.sum()) <= o.features or bool(normal.all()):
        raise DemoError(
            f"The training data needs more than {o.features} images of {o.normal} and some of other digits."
        )
    others = torch.nonzero(~normal).flatten()
    others = others[torch.randperm(len(others), generator=session.generator(1))[: o.anomalies]]
    rows = torch.cat([torch.nonzero(normal).flatten(), others])
    pca = PCA(o.features, random_state=o.seed).fit(digits.train_images[rows].flatten(1).numpy())

    def features(images):
        return torch.from_numpy(pca.transform(images.flatten(1).numpy())).float()

    x, y = features(digits.train_images[rows]), normal[rows].float()
    test, unusual = features(digits.test_images), digits.test_labels != o.normal
    session.say(
        f"{int(y.sum())} normal images of {o.normal}, {len(others)} labelled anomalies, {len(test)} test images"
    )
    mean, scale_tril = fit_gaussian(x[y == 1], shrinkage=0.05)
    found = {"Euclidean distance": (test - mean).norm(dim=1),
             "fitted Mahalanobis": functional.mahalanobis_distance(test, mean, scale_tril)}  # fmt: skip
    unit = functional.mahalanobis_distance(x[y == 1], mean, scale_tril).mean()  # a normal sample is 1 away at the start
    torch.manual_seed(o.seed)
    model = Detector(mean, scale_tril * unit).to(session.device)

    def criterion(losses, outputs, batch):
        return losses.mahalanobis_loss(outputs[0], batch[1], outputs[1], outputs[2], margin=o.margin)

    def optimizer(parameters):
        return torch.optim.Adam(parameters, lr=0.001)

    batches = Batches(x, y, size=32, device=session.device, generator=session.generator(2))
    fit(session, "anomaly", model, batches, criterion, optimizer(model.parameters()),
        epochs=min(o.epochs, 20) if session.quick else o.epochs)  # fmt: skip
    with torch.no_grad():
        distance = functional.mahalanobis_distance(*model(test.to(session.device))).cpu()
        found["trained Mahalanobis"] = finite(distance, "a distance")
    auc = {name: float(roc_auc_score(unusual, distance)) for name, distance in found.items()}
    session.metrics(euclidean_auc=auc["Euclidean distance"], fitted_auc=auc["fitted Mahalanobis"],
                    trained_auc=auc["trained Mahalanobis"])  # fmt: skip
    session.table(["distance from normal", "ROC-AUC"], [[name, value] for name, value in auc.items()])
    draw(session, found, auc, unusual, digits)
    step_time(session, "mahalanobis_loss", model, batches, criterion, optimizer)


def draw(session, found, auc, unusual, digits) -> None:
    figure, (left, right) = plots.axes(2, width=5.6)
    distance = found["trained Mahalanobis"].numpy()
    bins = np.linspace(0, np.quantile(distance, 0.99), 40)
    look = {"alpha": 0.75, "edgecolor": "white", "density": True}
    normal = session.options.normal
    left.hist(distance[~unusual.numpy()], bins, color=plots.BLUE, label=f"normal: {normal}", **look)
    left.hist(distance[unusual.numpy()], bins, color=plots.ORANGE, hatch="//", label="all other digits", **look)
    left.set(title="Trained distance of test images", xlabel="Mahalanobis distance", ylabel="density")
    left.legend()
    for number, (name, values) in enumerate(found.items()):
        false_rate, true_rate, _ = roc_curve(unusual, values)
        right.plot(false_rate, true_rate, plots.DASHES[number], color=plots.COLOURS[number],
                   label=f"{name}, AUC {auc[name]:.4f}")  # fmt: skip
    right.set(title="Anomalies found against false alarms", xlabel="share of normal images called unusual",
              ylabel="share of anomalies found", xlim=(-0.005, 0.4), ylim=(0.6, 1.005))  # fmt: skip
    right.legend(loc="lower right")
    session.picture(figure, "distances.png", "Distances of normal and unusual test images, and the ROC curves")
    order = torch.from_numpy(distance).argsort()
    usual = order[~unusual[order]]
    rows = torch.cat([usual[:6], usual.flip(0)[:6], order[unusual[order]][:6]])
    titles = [f"{digits.test_labels[row]}, {distance[row]:.2f}" for row in rows]
    title = f"The most and least normal {normal}s, and the other digits that pass for one"
    figure = plots.image_grid(digits.test_images[rows, 0], 6, titles, cell=1.3, title=title)
    session.picture(
        figure, "extremes.png", "Digit and distance: the most normal, the least normal, the hardest anomalies"
    )

"""Find a rare disease: when one sample in twenty is positive, the loss decides how many of them are found.

Real measurements of breast tumours (scikit-learn), the malignant ones thinned out in training. The same network, from
the same start, with plain binary cross-entropy, with weighted binary cross-entropy, and with the focal loss.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import average_precision_score, precision_recall_curve, precision_score, recall_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn

from . import plots
from .cli import positive_float, positive_int
from .training import Batches, fit, predict, step_time


def options(parser) -> None:
    parser.add_argument("--positives", type=positive_int, default=10, help="malignant samples in training (default 10)")
    parser.add_argument("--epochs", type=positive_int, default=20)
    parser.add_argument("--gamma", type=positive_float, default=2.0, help="of the focal loss (default 2)")


def thinned_data(positives: int, seed: int):
    """Training and test samples, malignant = 1; half are for the test, the training half keeps few positives."""
    bunch = load_breast_cancer()
    x, y = bunch.data, 1 - bunch.target
    x, test_x, y, test_y = train_test_split(x, y, test_size=0.5, random_state=0, stratify=y)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator).numpy()
    ill, well = order[y[order] == 1][:positives], order[y[order] == 0]
    x, y = x[[*ill, *well]], y[[*ill, *well]]
    scaler = StandardScaler().fit(x)
    arrays = scaler.transform(x), y, scaler.transform(test_x), test_y
    return [torch.from_numpy(array).float() for array in arrays]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))


def run(session) -> None:
    o = session.options
    x, y, test_x, test_y = thinned_data(o.positives, o.seed)
    positives, negatives = int(y.sum()), int((1 - y).sum())
    session.data(f"scikit-learn's breast cancer: {negatives} benign and {positives} malignant tumours in training, "
                 f"{int((1 - test_y).sum())} and {int(test_y.sum())} in the test")  # fmt: skip
    ratio = negatives / positives
    # each loss with the name of its function, for the step times
    kinds = {
        "plain": ("binary_cross_entropy_with_logits", lambda losses, out, batch:
                  losses.binary_cross_entropy_with_logits(out, batch[1])),
        "weighted": ("weighted_binary_cross_entropy_with_logits", lambda losses, out, batch:
                     losses.weighted_binary_cross_entropy_with_logits(out, batch[1], class_weights=(1.0, ratio))),
        "focal": ("sigmoid_focal_loss", lambda losses, out, batch: losses.sigmoid_focal_loss(
            out, batch[1], alpha=ratio / (1 + ratio), gamma=o.gamma, reduction="mean")),
    }  # fmt: skip

    def optimizer(parameters):
        return torch.optim.Adam(parameters, lr=0.003)

    rows, scores = [], {}
    for kind, (function, criterion) in kinds.items():
        torch.manual_seed(o.seed)
        model = network().to(session.device)
        if not rows:
            rows.append(["untrained", *judge(session, "untrained", test_y, predict(model, test_x, session.device))])
        batches = Batches(x, y, size=32, device=session.device, generator=session.generator(1))
        fit(session, kind, model, batches, criterion, optimizer(model.parameters()),
            epochs=o.epochs)  # fmt: skip
        scores[kind] = predict(model, test_x, session.device)
        rows.append([kind, *judge(session, kind, test_y, scores[kind])])
        step_time(session, function, model, batches, criterion, optimizer)
    session.table(["malignant tumours of the test", "recall", "precision", "average precision"], rows)
    draw(session, rows, scores, test_y)


def judge(session, kind, truth, logits):
    """Recall and precision of the positives at probability 1/2, and the area under the precision-recall curve."""
    found = (logits > 0).float()
    values = {"recall": float(recall_score(truth, found)),
              "precision": float(precision_score(truth, found, zero_division=0)),
              "average_precision": float(average_precision_score(truth, logits))}  # fmt: skip
    session.metrics(**{f"{kind}_{name}": value for name, value in values.items()})
    return values.values()


def draw(session, rows, scores, truth) -> None:
    figure, (left, right) = plots.axes(2, width=5.5)
    names = [row[0] for row in rows[1:]]
    for number, (name, column, colour) in enumerate((("recall", 1, plots.BLUE), ("precision", 2, plots.ORANGE))):
        places = [i + (number - 0.5) * 0.38 for i in range(len(names))]
        bars = left.bar(places, [row[column] for row in rows[1:]], 0.36, color=colour, label=name,
                        hatch="//" if number else None, edgecolor="white")  # fmt: skip
        left.bar_label(bars, fmt="%.2f", fontsize=10)
    left.set(title="Malignant tumours found", ylabel="share", ylim=(0, 1.28), xticks=range(len(names)))
    left.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    left.set_xticklabels([f"{name} cross-entropy" if name != "focal" else "focal loss" for name in names], fontsize=9)
    left.grid(axis="x", visible=False)
    left.legend(ncols=2, loc="upper center")
    for number, (name, logits) in enumerate(scores.items()):
        precision, recall, _ = precision_recall_curve(truth, logits)
        right.step(
            recall, precision, where="post", color=plots.COLOURS[number], linestyle=plots.DASHES[number], label=name
        )
        row = rows[1 + number]
        right.plot(row[1], row[2], "o", color=plots.COLOURS[number], markersize=9)
    right.set(title="Precision and recall; dots at probability 1/2", xlabel="recall", ylabel="precision",
              xlim=(0.5, 1.01), ylim=(0.5, 1.02))  # fmt: skip
    right.legend(loc="lower left")
    session.picture(
        figure, "recall.png", "Weights and focal loss find more of the rare class; curves over all thresholds"
    )

"""A Siamese network tells whether two handwritten digits are the same.

One network embeds both images; the contrastive loss pulls the embeddings of equal digits together and pushes those
of different digits apart, up to the margin. The same training with the reference loss runs beside it.

Both train in double precision: in single precision a ReLU that rounding turns on or off parts the two trainings within
50 steps for about one seed in ten, and RMSprop amplifies the gap.
"""

from __future__ import annotations

import torch
from sklearn.metrics import accuracy_score, roc_auc_score, roc_curve
from torch import nn

from .. import functional, reference
from . import data, plots
from .cli import count, positive_float, positive_int
from .errors import DemoError
from .training import Batches, fit, predict, step_time, warm_up_and_decay

PRECISIONS = {"double": torch.float64, "single": torch.float32}
COMPARED_STEPS = 50  # RMSprop amplifies rounding after that
WARM_UP = 100  # steps; RMSprop's first full steps are so long that they amplify it at once


def options(parser) -> None:
    data.data_option(parser)
    parser.add_argument("--epochs", type=positive_int, default=20)
    parser.add_argument("--pairs", type=count, default=4000, help="training pairs (default 4000)")
    parser.add_argument("--batch", type=positive_int, default=32)
    parser.add_argument("--margin", type=positive_float, default=1.0)
    parser.add_argument("--learning-rate", type=positive_float, default=0.001)
    parser.add_argument("--precision", choices=PRECISIONS, default="double")


def base_network() -> nn.Module:
    """The embedding both images go through: 784 -> 128 -> 128 -> 128."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()
    )


def make_pairs(labels, wanted, generator):
    """`wanted` pairs of indices, half of equal and half of different digits: (first, second, equal)."""
    by_digit = [torch.nonzero(labels == digit).flatten() for digit in range(10)]
    by_digit = [rows for rows in by_digit if len(rows)]
    if len(by_digit) < 2:
        raise DemoError("Pairs need images of at least two different digits: the data has too few.")

    def draw(rows):
        return rows[torch.randint(len(rows), (1,), generator=generator)].item()

    first, second, equal = [], [], []
    for number in range(wanted):
        a, b = torch.randperm(len(by_digit), generator=generator)[:2].tolist()
        first.append(draw(by_digit[a]))
        second.append(draw(by_digit[a if number % 2 == 0 else b]))
        equal.append(float(number % 2 == 0))
    return torch.tensor(first), torch.tensor(second), torch.tensor(equal)


def distances(model, pairs, images, device):
    """Euclidean distance of each pair's embeddings."""
    embeddings = predict(model, images.to(next(model.parameters()).dtype), device)
    return (embeddings[pairs[0]] - embeddings[pairs[1]]).norm(dim=1)


def verify(model, held, test, digits, device):
    """Accuracy and ROC-AUC on unseen pairs; the threshold is amid the best ones on the pairs held out of training."""
    known = distances(model, held, digits.train_images, device)
    false_rate, true_rate, thresholds = roc_curve(held[2], -known)
    best = thresholds[true_rate - false_rate >= (true_rate - false_rate).max() - 0.005]
    threshold = -float(best.min() + best.max()) / 2
    unseen = distances(model, test, digits.test_images, device)
    accuracy = accuracy_score(test[2], (unseen <= threshold).float())
    return {"accuracy": float(accuracy), "auc": float(roc_auc_score(test[2], -unseen)), "threshold": threshold}, unseen


def run(session) -> None:
    o = session.options
    epochs, number = (min(o.epochs, 4), min(o.pairs, 1500)) if session.quick else (o.epochs, o.pairs)
    digits = data.load(session)
    kept = len(digits.train_labels) * 17 // 20  # the rest sets the threshold
    train = make_pairs(digits.train_labels[:kept], number, session.generator(1))
    held = make_pairs(digits.train_labels[kept:], max(number // 2, 500), session.generator(4))
    held = (held[0] + kept, held[1] + kept, held[2])
    test = make_pairs(digits.test_labels, max(number // 2, 500), session.generator(2))
    session.say(f"{number} training pairs, {len(test[2])} pairs of images never seen in training")
    dtype = PRECISIONS[o.precision]
    images = digits.train_images.to(dtype)
    left, right = images[train[0]], images[train[1]]

    def forward(model, batch):
        return model(batch[0]), model(batch[1])

    def criterion(losses, outputs, batch):
        return losses.contrastive_loss(*outputs, batch[2], margin=o.margin)

    def optimizer(parameters):
        return torch.optim.RMSprop(parameters, lr=o.learning_rate, alpha=0.9, eps=1e-7)

    found, models = {}, {}
    for name, losses in (("fused", functional), ("reference", reference)):
        torch.manual_seed(o.seed)
        model = models[name] = base_network().to(session.device, dtype)
        if name == "fused":
            before, _ = verify(model, held, test, digits, session.device)
        batches = Batches(left, right, train[2], size=o.batch, device=session.device, generator=session.generator(3))
        optimiser = optimizer(model.parameters())
        scheduler = warm_up_and_decay(optimiser, WARM_UP, epochs * len(batches))
        fit(session, f"siamese, {name}", model, batches, criterion, optimiser,
            epochs=epochs, losses=losses, forward=forward, scheduler=scheduler)  # fmt: skip
        found[name] = verify(model, held, test, digits, session.device)

    (fused, unseen), (beside, _) = found["fused"], found["reference"]
    session.metrics(**fused, before_accuracy=before["accuracy"], before_auc=before["auc"],
                    reference_accuracy=beside["accuracy"], reference_auc=beside["auc"])  # fmt: skip
    columns = ["pairs of unseen images", "accuracy", "ROC-AUC"]
    rows = [["before training", before["accuracy"], before["auc"]], ["fused loss", fused["accuracy"], fused["auc"]],
            ["reference loss", beside["accuracy"], beside["auc"]]]  # fmt: skip
    session.table(columns, rows)
    compare(session)
    draw(session, digits, test, unseen, fused)
    batches = Batches(left.float(), right.float(), train[2], size=o.batch, device=session.device)
    step_time(session, "contrastive_loss", models["fused"].float(), batches, criterion, optimizer, forward=forward)


def compare(session) -> None:
    """State whether the two trainings agree, as they must."""
    steps = [
        session.results["history"][f"siamese, {name}"]["steps"][:COMPARED_STEPS] for name in ("fused", "reference")
    ]
    gap = max(abs(a - b) for a, b in zip(*steps))
    m = session.results["metrics"]
    accuracy_gap, auc_gap = abs(m["accuracy"] - m["reference_accuracy"]), abs(m["auc"] - m["reference_auc"])
    session.metrics(first_steps_gap=gap, accuracy_gap=accuracy_gap, auc_gap=auc_gap)
    session.check("first steps agree to 1e-5", gap <= 1e-5)
    session.check("final accuracy agrees to 0.01", accuracy_gap <= 0.01)
    session.check("final ROC-AUC agrees to 0.01", auc_gap <= 0.01)
    agree = "agree" if session.status == 0 else "DISAGREE"
    session.say(
        f"Fused and reference {agree}: losses of the first {len(steps[0])} steps differ by at most {gap:.1e} "
        f"(allowed 1e-5), accuracy by {accuracy_gap:.4f}, ROC-AUC by {auc_gap:.4f} (allowed 0.01)"
    )


def draw(session, digits, test, unseen, fused) -> None:
    """The histogram of distances, the curves, and the pairs that are hardest."""
    same, equal = unseen.numpy(), test[2].numpy() == 1
    figure, axis = plots.axes(width=7)
    bins = torch.linspace(0, float(unseen.max()), 50).numpy()
    axis.hist(same[equal], bins, color=plots.BLUE, alpha=0.75, label="same digit")
    axis.hist(
        same[~equal], bins, color=plots.ORANGE, alpha=0.75, hatch="//", edgecolor="white", label="different digits"
    )
    axis.axvline(fused["threshold"], color=plots.BLACK, linestyle="--", label=f"threshold {fused['threshold']:.2f}")
    axis.set(title=f"Distances of unseen pairs: accuracy {fused['accuracy']:.3f}, ROC-AUC {fused['auc']:.3f}",
             xlabel="Euclidean distance of the two embeddings", ylabel="pairs")  # fmt: skip
    axis.legend()
    session.picture(figure, "distances.png", "Distances of unseen pairs, same digit and different digits")
    curves = plots.curves(session.results["history"], "Contrastive loss by epoch, fused and reference", log=True)
    session.picture(curves, "curves.png", "The fused and the reference loss train alike")
    worst = [rows[order] for rows, order in (
        ((test[2] == 1).nonzero().flatten(), unseen[test[2] == 1].argsort(descending=True)[:5]),
        ((test[2] == 0).nonzero().flatten(), unseen[test[2] == 0].argsort()[:5]))]  # fmt: skip
    rows = torch.cat(worst)
    pictures = torch.cat([digits.test_images[test[0][rows], 0], digits.test_images[test[1][rows], 0]], dim=2)
    titles = [f"{'same' if test[2][row] else 'different'}, {unseen[row]:.2f}" for row in rows]
    figure = plots.image_grid(
        pictures, 5, titles, cell=1.7, title="The hardest pairs of unseen images and their distance"
    )
    session.picture(figure, "hardest.png", "Same digits that look far apart, different digits that look alike")

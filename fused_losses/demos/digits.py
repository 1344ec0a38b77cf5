"""Recognise handwritten digits with a small fully connected network and the fused cross-entropy.

MNIST is read from the folder of --data when its four files are there; otherwise the real digits that ship with
scikit-learn take its place. The same training with torch's own CrossEntropyLoss runs beside it and must agree.

Both train in double precision: five narrow layers amplify the rounding of float32 a million times within a few epochs,
and two trainings that differ by nothing else would part.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from torch import nn

from .. import functional
from . import data, plots
from .cli import positive_float, positive_int
from .training import Batches, fit, predict, step_time, warm_up_and_decay

TORCH = SimpleNamespace(cross_entropy=lambda input, target: nn.CrossEntropyLoss()(input, target))


def options(parser) -> None:
    data.data_option(parser)
    parser.add_argument("--preset", choices=("book",), help="book: torch's own initial weights, 20 epochs without "
                        "decay, learning rate 0.01 on MNIST and 0.1 on scikit-learn's digits")  # fmt: skip
    parser.add_argument("--epochs", type=positive_int, help="default 20 on MNIST, 60 on scikit-learn's digits")
    parser.add_argument("--batch", type=positive_int, default=32)
    parser.add_argument("--learning-rate", type=positive_float, help="default 0.01 on MNIST, else 0.05")
    parser.add_argument("--image", type=Path, nargs="+", metavar="FILE", default=[], help="pictures to classify")


def network(he: bool = True) -> nn.Module:
    """784 -> 40, four more layers of 40, -> 10, with ReLU; He's initial weights, made for ReLU, or torch's own."""
    layers = [nn.Flatten(), nn.Linear(784, 40), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Linear(40, 40), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(40, 10))
    for layer in model:
        if he and isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return model


def normalise(images):
    """From [0, 1] to [-1, 1]."""
    return (images - 0.5) / 0.5


def criterion(losses, output, batch):
    return losses.cross_entropy(output, batch[1])


def score(model, images, labels, device) -> dict:
    """Accuracy; precision, recall and F1 weighted by the number of each digit."""
    guess = predict(model, normalise(images).double(), device).argmax(dim=1)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, guess, average="weighted", zero_division=0)
    return {"accuracy": float(accuracy_score(labels, guess)), "precision": float(precision), "recall": float(recall),
            "f1": float(f1)}  # fmt: skip


def run(session) -> None:
    o = session.options
    own_pictures = [(path.name, data.read_image(path)) for path in o.image]
    digits = data.load(session)
    epochs, rate, decay, he = settings(session, digits)
    explore(session, digits)
    cut = len(digits.train_labels) * 4 // 5
    x, y = normalise(digits.train_images).double(), digits.train_labels
    models, scores = {}, {}
    for name, losses in (("fused", functional), ("torch", TORCH)):
        torch.manual_seed(o.seed)
        model = models[name] = network(he).double().to(session.device)
        scores.setdefault("untrained", score(model, digits.test_images, digits.test_labels, session.device))
        train = Batches(x[:cut], y[:cut], size=o.batch, device=session.device, generator=session.generator(1))
        held = Batches(x[cut:], y[cut:], size=1024, device=session.device)
        sgd = optimizer(rate)(model.parameters())
        schedule = warm_up_and_decay(sgd, 1, epochs * len(train)) if decay else None
        fit(session, f"digits, {name}", model, train, criterion, sgd, epochs=epochs, losses=losses, validation=held,
            scheduler=schedule)  # fmt: skip
        scores[name] = score(model, digits.test_images, digits.test_labels, session.device)
    report(session, scores, digits.is_mnist)
    draw(session, models["fused"], digits, scores["fused"])
    classify(session, models["fused"], own_pictures or write_pictures(session, digits))
    train = Batches(x[:cut].float(), y[:cut], size=o.batch, device=session.device, generator=session.generator(1))
    step_time(session, "cross_entropy", models["fused"].float(), train, criterion, optimizer(rate))


def settings(session, digits):
    """Epochs, learning rate, whether it decays, whether the weights start as He's; says them beside the book's."""
    o = session.options
    book = o.preset == "book"
    epochs = o.epochs or (20 if book or digits.is_mnist else 60)
    rate = o.learning_rate or (0.01 if digits.is_mnist else 0.1 if book else 0.05)
    decay = not (book or digits.is_mnist)
    if session.quick:
        epochs = min(epochs, 20)
        digits.limit(4000)
    session.note(f"SGD at {rate:g}{', decaying to 0' if decay else ''}, {epochs} epochs, batches of {o.batch}, "
                f"{'torch' if book else 'He'}'s initial weights, double precision")  # fmt: skip
    if not digits.is_mnist:
        session.note("On so few images the book's rate of 0.01 for 20 epochs reaches only 16 to 39 %")
    if not book:
        session.note("The book trains on MNIST at 0.01, 20 epochs, from torch's own initial weights: --preset book")
    return epochs, rate, decay, not book


def optimizer(rate):
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


def report(session, scores, is_mnist) -> None:
    names = ("accuracy", "precision", "recall", "f1")
    rows = [[n, *(scores[kind][n] for kind in ("untrained", "fused", "torch")), 0.96] for n in names]
    session.table(["test images", "untrained", "fused", "nn.CrossEntropyLoss", "the book, MNIST"], rows)
    fused, torch_history = (session.results["history"][f"digits, {name}"] for name in ("fused", "torch"))
    gap = max(abs(a - b) for a, b in zip(fused["train"], torch_history["train"]))
    session.metrics(**scores["fused"], before_accuracy=scores["untrained"]["accuracy"],
                    torch_accuracy=scores["torch"]["accuracy"], curve_gap=gap, mnist=is_mnist)  # fmt: skip
    session.check("same curve as nn.CrossEntropyLoss to 1e-4", gap <= 1e-4)
    agree = "agrees" if gap <= 1e-4 else "DISAGREES"
    session.say(f"The curve {agree} with nn.CrossEntropyLoss: {gap:.1e} apart at most (allowed 1e-4)")


def explore(session, digits) -> None:
    """Ten random digits, the mean image of each class, how often each occurs."""
    labels = digits.train_labels
    rows = torch.randperm(len(labels), generator=session.generator(2))[:10]
    titles = [f"{labels[row]}" for row in rows]
    figure = plots.image_grid(digits.train_images[rows, 0], 10, titles, title="Ten random digits and their labels")
    session.picture(figure, "random.png", "Ten random training digits and their labels")
    known = labels.unique().tolist()
    means = torch.stack([digits.train_images[labels == digit].mean(dim=0)[0] for digit in known])
    figure = plots.image_grid(means, 10, [str(digit) for digit in known], title="The mean image of each digit")
    session.picture(figure, "means.png", "The mean image of each digit")
    figure, axis = plots.axes(width=7, height=3.2)
    axis.bar(range(10), torch.bincount(labels, minlength=10).tolist(), color=plots.BLUE)
    axis.set(title="Training images of each digit", xlabel="digit", ylabel="images", xticks=range(10))
    axis.grid(axis="x", visible=False)
    session.picture(figure, "labels.png", "How many training images each digit has")


def draw(session, model, digits, scores) -> None:
    """The curves, and how the test images were read."""
    title = "Cross-entropy by epoch: fused and torch's own coincide"
    curves = plots.curves(session.results["history"], title, log=True)
    session.picture(curves, "curves.png", "Training and validation loss; fused and nn.CrossEntropyLoss coincide")
    guess = predict(model, normalise(digits.test_images).double(), session.device).argmax(dim=1)
    truth = digits.test_labels
    counts = torch.bincount(truth * 10 + guess, minlength=100).view(10, 10).numpy()
    figure, axis = plots.axes(width=5.6, height=5)
    axis.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    for i, j in np.argwhere(counts):
        axis.text(j, i, counts[i, j], ha="center", va="center", fontsize=9, color="white" if i == j else plots.BLACK)
    axis.set(title=f"Test images: accuracy {scores['accuracy']:.3f}", xlabel="digit read", ylabel="true digit",
             xticks=range(10), yticks=range(10))  # fmt: skip
    axis.grid(visible=False)
    session.picture(figure, "confusion.png", "Which digits are taken for which, on test images")


def write_pictures(session, digits):
    """Test images as PNG files of several sizes, read back as any other picture file: [(name, image)]."""
    folder = session.folder / "images"
    folder.mkdir(exist_ok=True)
    rows = torch.randperm(len(digits.test_labels), generator=session.generator(3))[:12].tolist()
    pictures = []
    for number, row in enumerate(rows):
        size = (28, 60, 100)[number % 3]
        grey = Image.fromarray((digits.test_images[row, 0].numpy() * 255).astype(np.uint8))
        path = folder / f"digit{digits.test_labels[row]}-test{row}-{size}px.png"
        grey.resize((size, size), Image.Resampling.BICUBIC).save(path)
        pictures.append((f"file of a {digits.test_labels[row]}", data.read_image(path)))
    return pictures


def classify(session, model, pictures) -> None:
    """Name the digit in each picture file."""
    images = torch.stack([image for _, image in pictures])
    probabilities = predict(model, normalise(images).double(), session.device).softmax(dim=1)
    sure, guess = probabilities.max(dim=1)
    session.results["images"] = {}
    titles = []
    for (name, _), digit, share in zip(pictures, guess.tolist(), sure.tolist()):
        if session.options.image:
            session.say(f"{name}: {digit} ({share:.1%})")
            session.results["images"][name] = {"digit": digit, "probability": share}
        titles.append(f"{name[:18]}\nread {digit}, {share:.0%}")
    columns = min(6, len(pictures))
    figure = plots.image_grid(images[:, 0], columns, titles, cell=1.5, title="Single picture files and what was read")
    session.picture(figure, "images.png", "Predictions for single picture files of any size")

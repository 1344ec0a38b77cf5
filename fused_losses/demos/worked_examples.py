"""The book's examples computed by hand, recomputed by the fused losses: example, book, computed, agrees.

A computed number agrees when it is within one unit of the last digit the book prints. Exit status 1 if one does not.
Gradient descent and backpropagation take their gradients from the fused backward.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from .. import functional as F
from . import plots
from .training import progress

ONE_WEIGHT = {1: ("13.5", "2.0"), 2: ("3.5", "1.0"), 3: ("1.0", "1.5"), 4: (".375", "1.25"), 5: (".2188", "1.375"),
              6: (".1796", "1.3125"), 10: (".1667", "1.3320")}  # fmt: skip
WEIGHT_AND_BIAS = {
    1: ("13.5", "2.0", ".7"), 2: ("6.09", ".65", ".26"), 3: ("2.761", "1.545", ".583"), 4: ("1.265", ".936", ".394"),
    5: (".592", "1.335", ".547"), 6: (".288", "1.059", ".47"), 10: (".044", "1.127", ".556"),
    15: (".025", "1.13", ".626"), 20: (".018", "1.109", ".678"), 233: ("0.0", "1.0", "1.0"),
}  # fmt: skip


def options(parser) -> None:
    pass


class Table:
    """Rows of example, what the book prints (or the formula gives), what the fused loss computes, agreement."""

    def __init__(self, device):
        self.device, self.rows = device, []

    def tensor(self, values):
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    def add(self, example: str, book: str | float, computed) -> None:
        """`book`: the printed digits as text, or a number given by the formula, to agree to 1e-5 of itself."""
        computed = float(computed)
        if isinstance(book, str):
            unit = 10.0 ** -len(book.partition(".")[2])
            agrees = abs(computed - float(book)) <= unit * (1 + 1e-6) + 1e-6 * abs(computed)
            shown = book
        else:
            agrees = abs(computed - book) <= 1e-5 * max(1.0, abs(book))
            shown = f"{book:.6g} (formula)"
        self.rows.append([example, shown, f"{computed:.6g}", "yes" if agrees else "NO"])


def run(session) -> None:
    table = Table(session.device)
    regression(table)
    binary(table)
    contrastive(table)
    variational(table)
    feed_forward(table)
    path_w = descent_one_weight(table)
    path_wb = descent_weight_and_bias(table)
    backpropagation(session, table)
    session.data("the numbers of the book's examples")
    session.table(["example", "book", "computed", "agrees"], table.rows)
    wrong = [row[0] for row in table.rows if row[3] != "yes"]
    session.metrics(examples=len(table.rows), agreeing=len(table.rows) - len(wrong))
    session.results["table"] = table.rows
    session.check("every example agrees", not wrong)
    session.say(
        f"{len(table.rows) - len(wrong)} of {len(table.rows)} agree" + (f"; not: {', '.join(wrong)}" if wrong else "")
    )
    draw(session, path_w, path_wb)


def regression(table) -> None:
    prediction, truth = table.tensor([15, 18, 20, 22, 25]), table.tensor([17, 20, 18, 21, 20])
    table.add("mean absolute error", "2.4", F.l1_loss(prediction, truth))
    table.add("mean squared error", "7.6", F.mse_loss(prediction, truth))


def binary(table) -> None:
    labels, p = [1, 0, 1], [0.9, 0.2, 0.6]
    y, probabilities = table.tensor(labels), table.tensor(p)
    each = F.binary_cross_entropy(probabilities, y, reduction="none")
    for number, (book, value) in enumerate(zip((".105", ".223", ".511"), each)):
        table.add(f"binary cross-entropy, sample {number + 1}", book, value)
    table.add("binary cross-entropy, mean", ".280", F.binary_cross_entropy(probabilities, y))
    entropy = [-math.log(q if label else 1 - q) for label, q in zip(labels, p)]
    by_formula = sum(e * (2.0 if label else 1.0) for e, label in zip(entropy, labels)) / 3
    weighted = F.weighted_binary_cross_entropy(probabilities, y, class_weights=(1.0, 2.0))
    table.add("weighted binary cross-entropy, weights 1 and 2", by_formula, weighted)
    truth = torch.tensor([0, 1, 3], device=table.device)
    p = torch.full((3, 4), 0.1, device=table.device).scatter(1, truth[:, None], 0.7)
    one_hot = torch.nn.functional.one_hot(truth, 4).float()
    table.add("categorical cross-entropy, one-hot", ".357", F.cross_entropy(p.log(), one_hot))
    table.add("categorical cross-entropy, class ids", ".357", F.cross_entropy(p.log(), truth))


def contrastive(table) -> None:
    for distance, same, different in ((0.0, 0.0, 1.0), (0.5, 0.25, 0.25), (1.0, 1.0, 0.0), (1.5, 2.25, 0.0)):
        for label, expected in ((1, same), (0, different)):
            d, y = table.tensor([distance]), table.tensor([label])
            kind = "same" if label else "different"
            value = F.contrastive_loss_from_distance(d, y, margin=1.0)
            table.add(f"contrastive, d = {distance}, {kind}", expected, value)
            first = table.tensor([[3.0, 4.0]]) * distance / 5
            value = F.contrastive_loss(first, torch.zeros_like(first), y, margin=1.0)
            table.add(f"contrastive, embeddings {distance} apart, {kind}", expected, value)


def variational(table) -> None:
    zero = torch.zeros(2, 3, device=table.device)
    table.add("Gaussian KL of the prior itself", 0.0, F.gaussian_kl(zero, zero))
    mu, logvar = [[1.0, -0.5], [0.0, 2.0]], [[0.0, 0.3], [-1.0, 0.5]]
    kl = sum(
        -0.5 * (1 + v - m * m - math.exp(v)) for ms, vs in zip(mu, logvar) for m, v in zip(ms, vs)
    ) / 2  # fmt: skip
    mu, logvar = table.tensor(mu), table.tensor(logvar)
    table.add("Gaussian KL, two samples of two latents", kl, F.gaussian_kl(mu, logvar))
    pixels = torch.arange(784, device=table.device) / 783
    images = torch.stack([pixels.round(), 1 - pixels])
    guess = torch.stack([0.1 + 0.8 * pixels, torch.full_like(pixels, 0.4)])
    total, reconstruction, divergence = F.vae_loss(guess, images, mu, logvar)
    x, q = images.double().cpu().numpy(), guess.double().cpu().numpy()
    entropy = -(x * np.log(q) + (1 - x) * np.log(1 - q))
    by_formula = 784 * entropy.mean(axis=1).mean()
    table.add("VAE, reconstruction of 784 pixels", float(by_formula), reconstruction)
    table.add("VAE, Gaussian KL", kl, divergence)
    table.add("VAE, total", float(by_formula) + kl, total)


def feed_forward(table) -> None:
    x = table.tensor([70, 25])
    rows = table.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]])
    bias = table.tensor([0.1, 0.2, 0.3])
    first = torch.relu(x @ rows[:2] + bias)
    second = torch.relu(first @ rows + bias)
    out = torch.relu(second @ bias + 0.1)
    books = {"h1": ("17.1", "26.7", "36.3"), "h2": ("37.9", "46.01", "54.12"), "out": ("29.328",)}
    for (name, book), values in zip(books.items(), (first, second, out[None])):
        for number, (text, value) in enumerate(zip(book, values)):
            table.add(f"feed-forward, {name}" + (f"[{number + 1}]" if len(book) > 1 else ""), text, value)


def descend(x, y, parameters, rate, steps):
    """Gradient descent with the fused backward: yields (step, loss before it, gradient, parameters after it)."""
    with progress("weight and bias" if len(parameters) > 1 else "one weight", steps) as bar:
        for step in range(1, steps + 1):
            parameters.requires_grad_()
            prediction = x * parameters[0] + (parameters[1] if len(parameters) > 1 else 0)
            loss = F.mse_loss(prediction, y)
            (gradient,) = torch.autograd.grad(loss, parameters)
            parameters = (parameters - rate * gradient).detach()
            bar.update()
            yield step, loss.item(), gradient.tolist(), parameters.tolist()


def descent_one_weight(table):
    x, y = table.tensor([1, 2, 3, 4]), table.tensor([2, 3, 4, 5])
    path = list(descend(x, y, table.tensor([0.0]), 0.1, 100))
    for step, loss, _, (weight,) in path:
        if step in ONE_WEIGHT:
            table.add(f"descent, one weight, J at step {step}", ONE_WEIGHT[step][0], loss)
            table.add(f"descent, one weight, W after step {step}", ONE_WEIGHT[step][1], weight)
    table.add("descent, one weight, limit of W", 4 / 3, path[-1][3][0])
    return path


def descent_weight_and_bias(table):
    x, y = table.tensor([1, 2, 3, 4]), table.tensor([2, 3, 4, 5])
    path = list(descend(x, y, table.tensor([0.0, 0.0]), 0.1, 233))
    for book, value, name in zip(("-20", "-7"), path[0][2], ("w", "b")):
        table.add(f"descent, weight and bias, first dJ/d{name}", book, value)
    for step, loss, _, values in path:
        if step in WEIGHT_AND_BIAS:
            for name, book, value in zip(("J at", "w after", "b after"), WEIGHT_AND_BIAS[step], (loss, *values)):
                table.add(f"descent, weight and bias, {name} step {step}", book, value)
    return path


def backpropagation(session, table) -> None:
    """A 1-1-1-1 network, sigmoid hidden units, J = (y - prediction)^2 / 2: the chain rule by hand and the fused one."""
    x, y = 1.5, 0.8
    values = {"w1": 0.4, "b1": 0.1, "w2": -0.6, "b2": 0.2, "w3": 0.9, "b3": -0.3}

    def sigmoid(z):
        return 1 / (1 + math.exp(-z))

    h1 = sigmoid(values["w1"] * x + values["b1"])
    h2 = sigmoid(values["w2"] * h1 + values["b2"])
    guess = values["w3"] * h2 + values["b3"]
    d3 = guess - y
    d2 = d3 * values["w3"] * h2 * (1 - h2)
    d1 = d2 * values["w2"] * h1 * (1 - h1)
    by_hand = {"w3": d3 * h2, "b3": d3, "w2": d2 * h1, "b2": d2, "w1": d1 * x, "b1": d1}

    leaves = {name: table.tensor([value]).requires_grad_() for name, value in values.items()}
    hidden = torch.sigmoid(leaves["w1"] * x + leaves["b1"])
    hidden = torch.sigmoid(leaves["w2"] * hidden + leaves["b2"])
    prediction = leaves["w3"] * hidden + leaves["b3"]
    prediction.retain_grad()
    (F.mse_loss(prediction, table.tensor([y])) / 2).backward()
    table.add("backpropagation, dJ/dprediction", d3, prediction.grad)
    for name, expected in by_hand.items():
        table.add(f"backpropagation, dJ/d{name}", expected, leaves[name].grad)
    session.say(
        f"A sign slip in the book: it prints dJ/dprediction = y - prediction, here {y - guess:.4f}; the derivative of "
        f"(y - prediction)^2 / 2 is prediction - y, here {d3:.4f}, and the fused backward gives "
        f"{prediction.grad.item():.4f}."
    )


def draw(session, path_w, path_wb) -> None:
    """Both descents on their error surfaces."""
    x, y = np.array([1.0, 2, 3, 4]), np.array([2.0, 3, 4, 5])
    figure, (left, right) = plots.axes(2, width=6, height=4.6)
    weights = np.linspace(-0.2, 2.4, 200)
    left.plot(weights, ((np.outer(weights, x) - y) ** 2).mean(axis=1), color=plots.BLACK, label="J(W)")
    visited = [0.0] + [parameters[0] for _, _, _, parameters in path_w[:10]]
    heights = [((w * x - y) ** 2).mean() for w in visited]
    left.plot(visited, heights, "o--", color=plots.VERMILION, markersize=6, linewidth=1.2, label="steps")
    for number, (w, height) in enumerate(zip(visited[:4], heights)):
        left.annotate(str(number), (w, height), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=10,
                      bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": "none"})  # fmt: skip
    left.set(title="One weight: W goes to 4/3", xlabel="weight W", ylabel="mean squared error J")
    left.legend()
    w, b = np.meshgrid(np.linspace(-0.2, 2.3, 160), np.linspace(-0.15, 1.25, 160))
    surface = ((w[..., None] * x + b[..., None] - y) ** 2).mean(axis=-1)
    contours = right.contour(w, b, surface, levels=[0.02, 0.1, 0.5, 1, 2, 4, 8, 12], colors="#888888", linewidths=0.9)
    right.clabel(contours, fontsize=8, fmt="%g")
    points = np.array([[0.0, 0.0]] + [parameters for _, _, _, parameters in path_wb])
    right.plot(points[:, 0], points[:, 1], "o--", color=plots.BLUE, markersize=4, linewidth=1, label="233 steps")
    right.plot(1, 1, "*", color=plots.VERMILION, markersize=16, label="minimum (1, 1)")
    right.set(title="Weight and bias: (w, b) goes to (1, 1)", xlabel="weight w", ylabel="bias b")
    right.legend(loc="upper right")
    session.picture(figure, "descent.png", "Gradient descent through the fused backward, on the error and its contours")

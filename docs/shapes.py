"""The shape of each loss and of its gradient, drawn from the real functions: `python docs/shapes.py FOLDER`.

One picture for each loss, its curves being choices of its options; and `overview.png`, eight of them for a start page.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch

from fused_losses import functional as F

matplotlib.use("Agg")
matplotlib.rcParams |= {"svg.hashsalt": "fused_losses", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}
from matplotlib import pyplot as plt  # noqa: E402

Curve = Callable[[torch.Tensor], torch.Tensor]
COLOURS, STYLES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7"), ("-", "--", "-.", ":")
COUNT = 401


class Shape(NamedTuple):
    axis: str
    low: float
    high: float
    curves: dict[str, Curve]  # label -> loss of each of many x


def each(loss, make: Callable, **choices) -> dict[str, Curve]:
    """A curve for each value of an option: `each(F.huber_loss, make, delta=(1, 2))`; make(x) -> the tensors."""
    ((option, values),) = choices.items()
    return {
        f"{option} = {value}": lambda x, value=value: loss(*make(x), reduction="none", **{option: value})
        for value in values
    }


def both(loss, make: Callable, **named: dict) -> dict[str, Curve]:
    """A curve for each set of options, under its label."""
    return {
        label: lambda x, options=options: loss(*make(x), **{"reduction": "none", **options})
        for label, options in named.items()
    }


def true(x):
    return x, torch.ones_like(x)


def zeros(x):
    return x, torch.zeros_like(x)


def in_batches(loss: Callable) -> Curve:
    """A loss of two batches of two embeddings, of which the pairs have the similarity x and all others 0."""
    return lambda x: torch.stack([loss(torch.eye(2), s * torch.eye(2)) for s in x])


def labelled(a, b):
    return torch.cat([a, b]), torch.tensor([0, 1, 0, 1])


def queries(x):
    return torch.stack([x, 0 * x], 1), torch.eye(2)


def projected(x):
    """The logits x and 0 of a linear layer."""
    return x[:, None], torch.tensor([[1.0], [0.0]]), torch.zeros(len(x), dtype=torch.long)


def distilled(x):
    weight = torch.tensor([[1.0], [0.0]])
    return x[:, None], weight, torch.full_like(x, 2.0)[:, None], weight


def targets(loss) -> dict[str, Curve]:
    return {f"t = {t}": lambda x, t=t: loss(x, torch.full_like(x, t), reduction="none") for t in (1, 0.5, 0)}


def against_two(x):
    """Logits (n, 3), x that of the true class; the target is class 0."""
    return torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)], 1), torch.zeros(len(x), dtype=torch.long)


def two_logits(x):
    """Logits (n, 2) of a student, and those of a teacher who is sure of the first."""
    return torch.stack([x, torch.zeros_like(x)], 1), torch.tensor([2.0, 0.0]).expand(len(x), 2)


def region(x):
    """Logits (n, 1, 16) of images with 4 true positions of logit x; the others are at -2. And the mask."""
    return torch.cat([x[:, None].expand(-1, 4), torch.full((len(x), 12), -2.0)], 1)[:, None], (
        torch.arange(16) < 4).float().expand(len(x), 1, 16)  # fmt: skip


def of_region(loss, **named: dict) -> dict[str, Curve]:
    curves = both(loss, region, **named)
    return {label: lambda x, curve=curve: curve(x).flatten() for label, curve in curves.items()}


def of_region_in_all(loss, **named: dict) -> dict[str, Curve]:
    """Of losses that reduce to a scalar: image by image."""

    def one(x, options):
        input, target = region(x)
        return torch.stack([loss(i[None], t[None], activation="sigmoid", **options) for i, t in zip(input, target)])

    return {label: lambda x, options=options: one(x, options) for label, options in named.items()}


def pairs(target: float) -> Callable:
    return lambda x: (torch.zeros(len(x), 1), x[:, None], torch.full((len(x),), target))


def gaussian(x):
    return x[:, None], torch.zeros(1), torch.eye(1)


def anomalies(x):
    return x[:, None], torch.zeros(len(x)), torch.zeros(1), torch.eye(1)


def lists(x):
    """Scores (n, 4), x that of the one relevant item."""
    return torch.cat([x[:, None], torch.tensor([-1.0, 0.0, 1.0]).expand(len(x), 3)], 1), torch.tensor(
        [[1.0, 0, 0, 0]]).expand(len(x), 4)  # fmt: skip


def sentences(x):
    """Logits (n, 4, 8), x that of the right token at each position."""
    target = torch.tensor([1, 2, 3, 4]).expand(len(x), 4)
    return x[:, None, None] * torch.nn.functional.one_hot(target, 8), target


def code(x):
    """A picture of one element and a code of one dimension with mean x."""
    one = torch.zeros(len(x), 1)
    return one + 0.5, one + 1, x[:, None], one


LOGIT = ("logit x", -6.0, 6.0)
ERROR = ("x - t", -3.0, 3.0)
TRUE_LOGIT = ("logit of the true class, the two others at 0", -6.0, 6.0)
REGION = ("logit inside the region, that outside at -2", -6.0, 6.0)
WEIGHTS = {"weight = 1": {}, "weight = 2": {"weight": torch.tensor(2.0)}}
PAIR = "similarity of a pair, those of the others 0", -1.0, 1.0
SHAPES = {
    "binary_cross_entropy": Shape("probability p", 0.05, 0.95, targets(F.binary_cross_entropy)),
    "binary_cross_entropy_with_logits": Shape(*LOGIT, {
        **targets(F.binary_cross_entropy_with_logits),
        **both(F.binary_cross_entropy_with_logits, true, **{
            "t = 1, pos_weight = 3": {"pos_weight": torch.tensor(3.0)}}),
    }),
    "weighted_binary_cross_entropy": Shape("probability p, t = 1", 0.05, 0.95, each(
        F.weighted_binary_cross_entropy, true, class_weights=((1, 1), (1, 2), (1, 4)))),
    "weighted_binary_cross_entropy_with_logits": Shape("logit x, t = 1", -6, 6, {
        **each(F.weighted_binary_cross_entropy_with_logits, true, class_weights=((1, 1), (1, 3))),
        **each(F.weighted_binary_cross_entropy_with_logits, true, label_smoothing=(0.2,))}),
    "sigmoid_focal_loss": Shape("logit x, t = 1, alpha = -1", -6, 6, both(
        F.sigmoid_focal_loss, true, **{f"gamma = {g}": {"gamma": g, "alpha": -1} for g in (0, 0.5, 2, 5)})),
    "hinge_loss": Shape("score x, t = 1", -2, 3, both(F.hinge_loss, true, **{
        "margin = 1": {}, "margin = 2": {"margin": 2.0}, "margin = 1, squared": {"squared": True}})),
    "mse_loss": Shape(*ERROR, both(F.mse_loss, zeros, **WEIGHTS)),
    "l1_loss": Shape(*ERROR, both(F.l1_loss, zeros, **WEIGHTS)),
    "huber_loss": Shape(*ERROR, each(F.huber_loss, zeros, delta=(0.5, 1, 2))),
    "smooth_l1_loss": Shape(*ERROR, each(F.smooth_l1_loss, zeros, beta=(0, 0.5, 2))),
    "cross_entropy": Shape(*TRUE_LOGIT, each(F.cross_entropy, against_two, label_smoothing=(0.0, 0.1, 0.3))),
    "softmax_focal_loss": Shape(*TRUE_LOGIT, each(F.softmax_focal_loss, against_two, gamma=(0, 0.5, 2, 5))),
    "kl_div": Shape("log-probability x", -6, 0, {
        f"t = {t}": lambda x, t=t: F.kl_div(x, torch.full_like(x, t), "none") for t in (0.1, 0.5, 0.9)}),
    "kl_div_with_logits": Shape("student's logit, the teacher's at 2, those of the other class at 0", -6, 8, each(
        F.kl_div_with_logits, two_logits, temperature=(1, 2, 4))),
    "js_div_with_logits": Shape("logit x, the target's at 2, those of the other class at 0", -6, 8, each(
        F.js_div_with_logits, two_logits, beta=(0.1, 0.5, 0.9))),
    "gaussian_kl": Shape("mean μ, prior N(0, 1)", -3, 3, {
        f"log-variance = {v}": lambda x, v=v: F.gaussian_kl(x[:, None], v + torch.zeros(len(x), 1), reduction="none")
        for v in (-2, 0, 2)}),
    "vae_loss": Shape("mean of the code μ, log-variance 0", -3, 3, {
        f"beta = {b}": lambda x, b=b: F.vae_loss(*code(x), beta=b, reduction="none")[0] for b in (0.5, 1, 4)}),
    "dice_loss": Shape(*REGION, of_region(F.dice_loss, **{
        "plain": {}, "squared": {"squared": True}, "smooth_nr = smooth_dr = 1": {"smooth_nr": 1.0, "smooth_dr": 1.0}})),
    "jaccard_loss": Shape(*REGION, of_region(F.jaccard_loss, **{"plain": {}, "squared": {"squared": True}})),
    "tversky_loss": Shape(*REGION, of_region(F.tversky_loss, **{
        "alpha = 0.5, beta = 0.5": {}, "alpha = 0.3, beta = 0.7": {"alpha": 0.3, "beta": 0.7},
        "alpha = 0.7, beta = 0.3": {"alpha": 0.7, "beta": 0.3},
        "alpha = 0.3, beta = 0.7, gamma = 0.75": {"alpha": 0.3, "beta": 0.7, "gamma": 0.75}})),
    "dice_cross_entropy_loss": Shape(*REGION, of_region_in_all(F.dice_cross_entropy_loss, **{
        f"ce_weight = {w}": {"ce_weight": w} for w in (0, 0.5, 1)})),
    "dice_focal_loss": Shape(*REGION, of_region_in_all(F.dice_focal_loss, **{
        f"gamma = {g}": {"gamma": g} for g in (0, 1, 2)})),
    "contrastive_loss": Shape("distance d", 0.0, 3.0, {
        "similar": lambda x: F.contrastive_loss(*pairs(1.0)(x), reduction="none"),
        **{f"dissimilar, {label}": c for label, c in each(F.contrastive_loss, pairs(0.0), margin=(1, 2)).items()}}),
    "contrastive_loss_from_distance": Shape("distance d", 0.0, 3.0, {
        "similar": lambda x: F.contrastive_loss_from_distance(*true(x), reduction="none"),
        **{f"dissimilar, {label}": curve for label, curve in each(
            F.contrastive_loss_from_distance, zeros, margin=(1, 2)).items()}}),
    "mahalanobis_distance": Shape("x, mean 0", -3, 3, {
        f"deviation {s}": lambda x, s=s: F.mahalanobis_distance(x[:, None], torch.zeros(1), s * torch.eye(1))
        for s in (0.5, 1, 2)}),
    "mahalanobis_loss": Shape("x, mean 0, deviation 1", -3, 3, {
        "normal": lambda x: F.mahalanobis_loss(x[:, None], torch.ones(len(x)), *gaussian(x)[1:], reduction="none"),
        **{f"anomaly, {label}": c for label, c in each(F.mahalanobis_loss, anomalies, margin=(1, 2)).items()}}),
    "info_nce_loss": Shape(*PAIR, both(F.info_nce_loss, queries, **{
        f"temperature = {t}": {"temperature": t, "target": torch.zeros(COUNT, dtype=torch.long)}
        for t in (0.1, 0.3, 1)})),
    "clip_loss": Shape(*PAIR, {
        f"logit_scale = {k}": in_batches(lambda a, b, k=k: F.clip_loss(a, b, torch.tensor(float(k))))
        for k in (1, 3, 10)}),
    "siglip_loss": Shape(*PAIR, {
        f"logit_scale = 10, logit_bias = {b}": in_batches(
            lambda x, y, b=b: F.siglip_loss(x, y, torch.tensor(10.0), torch.tensor(float(b)))) for b in (-10, -5, 0)}),
    "nt_xent_loss": Shape(*PAIR, {
        f"temperature = {t}": in_batches(lambda a, b, t=t: F.nt_xent_loss(a, b, temperature=t, normalize=False))
        for t in (0.1, 0.5, 1)}),
    "sup_con_loss": Shape(*PAIR, {
        f"temperature = {t}": in_batches(lambda a, b, t=t: F.sup_con_loss(
            *labelled(a, b), temperature=t, normalize=False)) for t in (0.1, 0.3, 1)}),
    "multi_similarity_loss": Shape(*PAIR, {
        f"alpha = {k}, base = {base}": in_batches(lambda a, b, k=k, base=base: F.multi_similarity_loss(
            *labelled(a, b), alpha=k, base=base, epsilon=3.0, normalize=False))
        for k, base in ((1.0, 0.5), (2.0, 0.5), (2.0, 0.0))}),
    "linear_cross_entropy": Shape(*TRUE_LOGIT[:1], -6, 6, both(F.linear_cross_entropy, projected, **{
        "plain": {}, "label_smoothing = 0.1": {"label_smoothing": 0.1}, "softcap = 3": {"softcap": 3.0},
        "z_loss = 0.1": {"z_loss": 0.1}})),
    "linear_kl_div": Shape("student's logit, the teacher's at 2, those of the other class at 0", -6, 8, each(
        F.linear_kl_div, distilled, temperature=(1, 2, 4))),
    "linear_js_div": Shape("logit x, the teacher's at 2, those of the other class at 0", -6, 8, each(
        F.linear_js_div, distilled, beta=(0.1, 0.5, 0.9))),
    "approx_ndcg_loss": Shape("score of the one relevant item, the others at -1, 0 and 1", -4, 4, each(
        F.approx_ndcg_loss, lists, temperature=(0.1, 0.5, 1))),
    "lambda_ndcg_loss": Shape("score of the one relevant item, the others at -1, 0 and 1", -4, 4, each(
        F.lambda_ndcg_loss, lists, sigma=(0.5, 1, 2))),
    "expected_bleu_loss": Shape("logit of the right token at each position, the 7 others at 0", -2, 8, each(
        F.expected_bleu_loss, sentences, max_order=(1, 2, 4))),
}  # fmt: skip
OVERVIEW = (
    "sigmoid_focal_loss", "cross_entropy", "tversky_loss", "contrastive_loss",
    "huber_loss", "kl_div_with_logits", "approx_ndcg_loss", "mahalanobis_loss",
)  # fmt: skip


def curves(shape: Shape) -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """x, loss and gradient of each curve."""
    found = {}
    for label, curve in shape.curves.items():
        x = torch.linspace(shape.low, shape.high, COUNT).requires_grad_()
        loss = curve(x)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        found[label] = x.detach(), loss.detach(), gradient
    return found


def draw(axes, shape: Shape, what: int) -> None:
    """The losses (1) or the gradients (2) of a shape."""
    for (label, values), colour, style in zip(curves(shape).items(), COLOURS, STYLES):
        axes.plot(values[0], values[what], color=colour, linestyle=style, label=label, linewidth=1.6)
    axes.axhline(0, color="black", linewidth=0.6)


def picture(name: str, path: Path) -> None:
    shape = SHAPES[name]
    figure, both_axes = plt.subplots(1, 2, figsize=(8, 2.9), layout="constrained")
    for what, axes, title in zip((1, 2), both_axes, ("loss", "gradient")):
        draw(axes, shape, what)
        axes.set_title(title)
    figure.supxlabel(shape.axis, fontsize=9)
    both_axes[0].legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def overview(path: Path) -> None:
    figure, rows = plt.subplots(2, 4, figsize=(11, 4.8), layout="constrained")
    for name, axes in zip(OVERVIEW, rows.flat):
        draw(axes, SHAPES[name], 1)
        axes.set_title(f"{name}", fontsize=10)
        axes.legend(fontsize=6.5)
        if name == "tversky_loss":  # its labels are long
            axes.set_ylim(top=1.7)
        axes.set_xlabel(SHAPES[name].axis.split(",")[0], fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(folder: str) -> None:
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name in SHAPES:
        picture(name, target / f"{name}.svg")
    overview(target / "overview.png")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Two towers learn that two views of an image belong together, from batches whose similarities do not fit into memory.

A view is the image turned, shifted, scaled and partly covered. One training uses clip_loss: each view is to find its
other view among thousands, no label is seen. The other uses sup_con_loss: all views of a digit belong together. The
same loss written in plain PyTorch runs out of the memory that both are given; a fresh process each measures it.

--processes N spreads each batch over N processes of torch.distributed, and the curve stays the same.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as nnf
from sklearn.manifold import TSNE
from torch import nn

from . import data, plots
from .cli import positive_int, size
from .errors import DemoError
from .memory import measured
from .training import fit, step_time, warm_up_and_decay

TEMPERATURE = 0.5
SHOWN = 360  # unseen images in the picture
SAME_CURVE = 1e-3  # relative: rounding differs by 1e-7 where sums are cut elsewhere, and training amplifies it


def options(parser) -> None:
    data.data_option(parser)
    parser.add_argument("--batch", type=positive_int, default=2048, help="pairs of views of a step (default 2048)")
    parser.add_argument("--steps", type=positive_int, default=80, help="default 80")
    parser.add_argument("--features", type=size, default=64, help="of an embedding (default 64)")
    parser.add_argument("--memory", type=positive_int, default=96, metavar="MIB",
                        help="what the loss is given beside the embeddings (default 96)")  # fmt: skip
    parser.add_argument("--processes", type=positive_int, default=1, help="that share each batch (default 1)")


def views(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image [n, 1, 28, 28] turned, scaled and shifted by chance, with a square of 8 x 8 pixels covered."""
    angle, growth, x, y = torch.rand(4, len(images), generator=generator).unbind()
    angle, growth = (angle - 0.5) * 0.6, 1 + (growth - 0.5) * 0.3
    cos, sin = angle.cos() * growth, angle.sin() * growth
    move = torch.stack([x, y], 1) * 0.2 - 0.1
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    grid = nnf.affine_grid(torch.cat([turn, move[:, :, None]], 2), images.shape, align_corners=False)
    seen = nnf.grid_sample(images, grid, align_corners=False)
    corner = torch.randint(0, 21, (2, len(images), 1), generator=generator)
    row, column = ((torch.arange(28) - c) // 8 == 0 for c in corner)
    return seen.masked_fill((row[:, :, None] & column[:, None, :])[:, None], 0)


class Views:
    """Batches of (view, other view, label): this process's part of each."""

    def __init__(self, images, labels, batch, steps, generator, device, rank=0, processes=1):
        self.images, self.labels, self.batch, self.steps = images, labels, batch, steps
        self.generator, self.device, self.rank, self.processes = generator, device, rank, processes

    def __len__(self) -> int:
        return self.steps

    def __iter__(self):
        for _ in range(self.steps):
            # As many of each image as there can be, in an order of chance; every process draws the whole batch.
            rows = torch.arange(self.batch) % len(self.images)
            rows = torch.randperm(len(self.images), generator=self.generator)[rows]
            both = [views(self.images[rows], self.generator) for _ in range(2)]
            parts = (t.chunk(self.processes)[self.rank].to(self.device) for t in (*both, self.labels[rows]))
            yield tuple(parts)


class Towers(nn.Module):
    """A network for each view [n, 1, 28, 28] -> [n, features], and how sharply similarities are told apart."""

    def __init__(self, features: int):
        super().__init__()
        self.first, self.second = (
            nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.LayerNorm(256), nn.ReLU(), nn.Linear(256, features))
            for _ in range(2)
        )
        self.log_scale = nn.Parameter(torch.tensor(2.3))

    def forward(self, x, y):
        return self.first(x), self.second(y), self.log_scale.exp()


def both_views(model, batch):
    return model(batch[0], batch[1])


def criterion_of(kind: str, group=None):
    """The loss of a batch, of all processes' parts where there is a group."""

    def clip(losses, outputs, batch):
        x, y, scale = outputs
        return losses.clip_loss(x, y, scale, normalize=True, **among)

    def sup_con(losses, outputs, batch):
        x, y, scale = outputs
        rows = torch.cat([x, y])
        loss = losses.sup_con_loss(rows, batch[2].repeat(2), temperature=TEMPERATURE, **among)
        return loss + 0 * scale  # which every process is to have a gradient of

    among = {} if group is None else {"group": group}
    return {"clip": clip, "supervised": sup_con}[kind]


def optimizer(parameters):
    return torch.optim.Adam(parameters, lr=0.001, eps=1e-6)


def train(session, kind: str, task: dict, group=None, rank: int = 0, processes: int = 1) -> nn.Module:
    """Train towers on this process's part of the batches; the curve is kept in the session."""
    torch.manual_seed(task["seed"])
    model = towers = Towers(task["features"]).to(session.device)
    if group is not None:
        model = nn.parallel.DistributedDataParallel(towers, process_group=group)
    generator = torch.Generator().manual_seed(task["seed"] * 1000 + 3)
    batches = Views(task["images"], task["labels"], task["batch"], task["steps"], generator, session.device, rank,
                    processes)  # fmt: skip
    adam = optimizer(model.parameters())
    fit(session, kind, model, batches, criterion_of(kind, group), adam, epochs=1, forward=both_views,
        scheduler=warm_up_and_decay(adam, 5, task["steps"]))  # fmt: skip
    return towers


def one_of(rank: int, processes: int, kind: str, task: dict, folder: str) -> None:
    """One of the processes that share each batch; the first leaves its towers and its curve in the folder."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes
    )
    session = SimpleNamespace(results={"history": {}}, models={}, device=torch.device("cpu"))
    silent = contextlib.nullcontext() if rank == 0 else contextlib.redirect_stderr(io.StringIO())
    with silent:
        towers = train(session, kind, task, torch.distributed.group.WORLD, rank, processes)
    if rank == 0:
        torch.save((towers.state_dict(), session.results["history"][kind]), f"{folder}/found.pt")
    torch.distributed.destroy_process_group()


def train_among(session, kind: str, task: dict, processes: int) -> nn.Module:
    """As `train`, each batch spread over processes."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(one_of, (processes, kind, task, folder), nprocs=processes)
        weights, history = torch.load(Path(folder) / "found.pt")
    towers = Towers(task["features"]).to(session.device)
    towers.load_state_dict(weights)
    session.results["history"][f"{kind}, {processes} processes"] = history
    return towers


@torch.no_grad()
def embeddings(model, pair):
    """Unit rows of both views of the test images."""
    model.eval()
    device = model.log_scale.device
    return [nnf.normalize(tower(view.to(device))).cpu() for tower, view in zip((model.first, model.second), pair)]


def judge(x, y, labels) -> dict[str, float]:
    """How often the most similar other view is the image's own, or at least shows the same digit."""
    order = (x @ y.mT).argsort(dim=1, descending=True)
    own = order == torch.arange(len(x))[:, None]
    same = labels[order[:, :10]] == labels[:, None]
    return {"own": own[:, 0].double().mean().item(), "own5": own[:, :5].any(1).double().mean().item(),
            "digit": same.double().mean().item()}  # fmt: skip


def run(session) -> None:
    o = session.options
    if o.processes > 1 and session.device.type != "cpu":
        raise DemoError("Expected --device cpu with more than one of --processes.")
    if o.batch % o.processes or o.batch < 2 * o.processes:
        raise DemoError(
            f"Expected --batch of as many pairs, 2 or more, in each of {o.processes} --processes, got {o.batch}."
        )
    batch, steps = (min(o.batch, 256), min(o.steps, 80)) if session.quick else (o.batch, o.steps)
    digits = data.load(session)
    task = {"images": digits.train_images, "labels": digits.train_labels, "batch": batch, "steps": steps,
            "features": o.features, "seed": o.seed}  # fmt: skip
    unseen, labels = digits.test_images[:1000], digits.test_labels[:1000]
    test = [views(unseen, session.generator(part)) for part in (1, 2)]
    found, places, columns = {}, {}, ["unseen images", "own view first", "own among 5", "same digit of 10"]
    kinds = ("clip",) if o.processes > 1 else ("clip", "supervised")
    torch.manual_seed(o.seed)
    models = {"before": Towers(o.features).to(session.device)}
    for kind in kinds:
        models[kind] = train(session, kind, task)
    if o.processes > 1:
        models["spread"] = train_among(session, "clip", task, o.processes)
        same_curve(session, o.processes)
    for name, model in models.items():
        places[name] = embeddings(model, test)
        found[name] = judge(*places[name], labels)
        session.metrics(**{f"{name}_{what}": value for what, value in found[name].items()})
    session.table(columns, [[name, *f.values()] for name, f in found.items()])
    draw(session, labels, places, found)
    if o.processes > 1:
        return
    memory(session, o.batch, o.features, o.memory)
    batches = Views(task["images"], task["labels"], min(batch, 512), 1, session.generator(5), session.device)
    step_time(session, "clip_loss", models["clip"], batches, criterion_of("clip"), optimizer, forward=both_views)


def same_curve(session, processes: int) -> None:
    """State whether the processes together have the losses of one."""
    alone, spread = (session.results["history"][name]["steps"] for name in ("clip", f"clip, {processes} processes"))
    gap = max(abs(a - b) / abs(a) for a, b in zip(alone, spread, strict=True))
    session.metrics(processes=processes, curve_gap=gap)
    session.check(f"{processes} processes have the curve of one", gap <= SAME_CURVE)
    session.say(f"The losses of {processes} processes differ from those of one by at most {gap:.1e} of themselves "
                f"(allowed {SAME_CURVE:.0e})")  # fmt: skip


def memory(session, batch: int, features: int, given: int) -> None:
    """What both losses take in a fresh process, fused and in plain PyTorch, and whether they fit into what is given."""
    if not sys.platform.startswith("linux"):
        session.note("Memory is measured on Linux alone")
        return
    kinds, forms = ("clip_loss", "sup_con_loss"), {"plain": "reference", "fused": "functional"}
    taken = {}
    for kind in kinds:
        for form, module in forms.items():
            mib, fits = measured(kind, module, batch, features, given)
            taken[f"{kind}, {form}"] = mib
            session.metrics(**{f"{kind}_{form}_mib": mib, f"{kind}_{form}_fits": fits})
            verdict = f"{'fits' if fits else 'does not fit'} into {given} MiB"
            session.say(f"{kind} of {batch} pairs, {form}: {mib:.0f} MiB, {verdict}")
        session.check(f"the fused {kind} fits into {given} MiB", fits)
    session.metrics(memory_pairs=batch, memory_given=given)
    figure, axis = plots.axes(width=7, height=3.6)
    bars = axis.barh(list(taken), taken.values(), color=[plots.VERMILION, plots.BLUE] * len(kinds))
    axis.bar_label(
        bars,
        [f"{mib:.0f} MiB" for mib in taken.values()],
        padding=4,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )
    axis.axvline(given, color=plots.BLACK, linestyle="--", label=f"given: {given} MiB")
    axis.set(title=f"Memory of the losses of {batch} pairs of {features} features", xlabel="MiB beside the embeddings")
    axis.set_xlim(0, 1.2 * max(given, *taken.values()))
    axis.invert_yaxis()
    axis.legend(loc="lower right")
    session.picture(figure, "memory.png", "What a loss and its gradients take in a fresh process, and what is given")


def draw(session, labels, places, found) -> None:
    """The curves, where the unseen images lie, and what they find."""
    names = [name for name in places if name != "spread"]
    figure, all_axes = plots.axes(len(names), width=4.6, height=4.4)
    for name, axis in zip(names, all_axes):
        spots = TSNE(random_state=0, init="pca", perplexity=30).fit_transform(places[name][0][:SHOWN].numpy())
        digits = labels[:SHOWN].numpy()
        axis.scatter(*spots.T, c=digits, cmap="tab10", s=14, alpha=0.7)
        for digit in range(10):
            if (digits == digit).any():
                middle = np.median(spots[digits == digit], axis=0)
                axis.annotate(str(digit), middle, fontsize=14, fontweight="bold", ha="center", va="center")
        title = {"before": "before training", "clip": "clip_loss, no labels", "supervised": "sup_con_loss"}[name]
        axis.set(title=f"{title}: same digit {found[name]['digit']:.0%}", xticks=[], yticks=[])
    session.picture(
        figure, "embedding.png", "Unseen images where the first tower puts them (t-SNE), coloured by their digit"
    )
    figure, axis = plots.axes(width=7)
    for number, (name, history) in enumerate(session.results["history"].items()):
        look = {"linewidth": 5, "alpha": 0.4} if number == 0 else {"linestyle": plots.DASHES[number]}
        axis.plot(range(1, len(history["steps"]) + 1), history["steps"], label=name, **look)
    axis.set(title="Loss by step", xlabel="step", ylabel="loss")
    axis.legend()
    session.picture(figure, "curves.png", "The loss of each training, step by step")

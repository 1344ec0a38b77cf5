"""A loss of one's own: four lines of PyTorch are compiled to a fused loss, checked, trained with, and timed.

The lines are weighted_bce.py beside this demo, the weighted binary cross-entropy; the training is that of the demo
`imbalanced`. --loss FILE takes another one: a Python file with a function of (input, target) under
`fused_losses.custom.elementwise`, of logits and of targets 0 and 1. --option NAME=VALUE sets an option of it.
"""

from __future__ import annotations

import argparse
import inspect
import time
from pathlib import Path

import torch

from .. import custom, functional
from ..custom.ahead import read
from ..custom.builder import find
from . import plots
from .cli import positive_int
from .errors import DemoError
from .imbalanced import judge, network, thinned_data
from .training import Batches, clock, fit, predict, step_time

OWN = Path(__file__).with_name("weighted_bce.py")
COMPARED_STEPS = 50
SIZES, QUICK_SIZES = (1 << 12, 1 << 16, 1 << 20, 1 << 22), (1 << 18,)


def named_number(text: str) -> tuple[str, float]:
    """NAME=VALUE, for argparse."""
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected NAME=NUMBER, got {text!r}") from None


def options(parser) -> None:
    parser.add_argument("--loss", type=Path, default=OWN, metavar="FILE", help="a file with a loss of your own")
    parser.add_argument("--option", type=named_number, nargs="+", default=[], metavar="NAME=VALUE",
                        help="of the loss (of the one here: positive=the ratio of the classes)")  # fmt: skip
    parser.add_argument("--positives", type=positive_int, default=10, help="malignant samples in training (default 10)")
    parser.add_argument("--epochs", type=positive_int, default=20)


def loss_of(file: Path):
    """The first elementwise loss of two tensors in the file."""
    try:
        found = read(file)
    except (OSError, SyntaxError, ImportError, ValueError, TypeError) as error:
        raise DemoError(f"The loss of {file} cannot be used: {str(error).rstrip('.')}.") from None
    for loss in found:
        if loss.custom.functor.family == "elementwise" and len(loss.tensors) == 2:
            return loss
    raise DemoError(f"Expected an elementwise loss of two tensors in {file}, found none.")


def run(session) -> None:
    o = session.options
    loss = loss_of(o.loss)
    x, y, test_x, test_y = thinned_data(o.positives, o.seed)
    positives, negatives = int(y.sum()), int((1 - y).sum())
    chosen = dict(o.option) or ({"positive": negatives / positives} if o.loss == OWN else {})
    session.say(f"{o.loss}:\n\n{inspect.getsource(loss.reference)}")
    compile_it(session, loss, chosen)
    report = custom.check(loss, 2 * torch.randn(6), (torch.arange(6) % 2).float(), **chosen)
    if o.loss == OWN:
        session.check("custom.check finds nothing wrong", report.good)
    session.data(f"scikit-learn's breast cancer: {negatives} benign and {positives} malignant tumours in training, "
                 f"{int((1 - test_y).sum())} and {int(test_y.sum())} in the test")  # fmt: skip
    rows = train(session, loss, chosen, (x, y), (test_x, test_y))
    times = race(session, loss, chosen)
    draw(session, loss.__name__, rows, times)


def compile_it(session, loss, chosen) -> None:
    """The first call, which compiles; what came of it."""
    was_there = find(loss.custom.op_name) is not None
    begin = time.perf_counter()
    try:
        loss(torch.zeros(2), torch.zeros(2), **chosen)
    except (TypeError, ValueError) as error:
        raise DemoError(f"Bad --option: {error}.") from None
    seconds = time.perf_counter() - begin
    session.metrics(first_call_s=seconds, was_compiled=was_there)
    if not loss.op.differentiable:
        session.note(f"There is no C++ compiler here: {loss.__name__} runs as plain PyTorch")
        return
    session.say(f"The C++ that came of it, loss and derivatives in one pass:\n\n{loss.source}")
    if was_there:
        folder = custom.cache_info()["folder"]
        session.note(f"Found in {1e3 * seconds:.0f} ms, compiled by an earlier run, in {folder}")
    else:
        session.note(f"Compiled in {seconds:.1f} s; the next process finds it at once")


def train(session, loss, chosen, train_set, test_set) -> list[list]:
    """With the plain cross-entropy, with the loss compiled and as it is written; the last two must train alike."""
    o, device = session.options, session.device

    def plain(losses, out, batch):
        return losses.binary_cross_entropy_with_logits(out, batch[1])

    def own(losses, out, batch):
        if losses is functional:
            return loss(out, batch[1], **chosen)
        return written(loss, chosen)(out, batch[1])

    def optimizer(parameters):
        return torch.optim.Adam(parameters, lr=0.003)

    rows = []
    for name, criterion, losses in (("plain", plain, functional), ("own", own, functional), ("formula", own, None)):
        torch.manual_seed(o.seed)
        model = network().to(device)
        batches = Batches(*train_set, size=32, device=device, generator=session.generator(1))
        fit(session, name, model, batches, criterion, optimizer(model.parameters()), epochs=o.epochs, losses=losses)
        label = {"plain": "binary cross-entropy", "own": loss.__name__, "formula": "its formula in PyTorch"}[name]
        rows.append([label, *judge(session, name, test_set[1], predict(model, test_set[0], device))])
        if name == "own":
            step_time(session, loss.__name__, model, batches, criterion, optimizer)
    session.table(["malignant tumours of the test", "recall", "precision", "average precision"], rows)
    steps = [session.results["history"][name]["steps"][:COMPARED_STEPS] for name in ("own", "formula")]
    gap = max(abs(a - b) for a, b in zip(*steps))
    session.metrics(first_steps_gap=gap)
    session.check("first steps agree to 1e-3 of the loss", gap <= 1e-3 * max(1.0, max(map(abs, steps[1]))))
    session.say(f"Losses of the first {len(steps[0])} steps, compiled and as written, differ by at most {gap:.1e}")
    return rows


def written(loss, chosen):
    """What one would write without the library."""
    return lambda input, target: loss.reference(input, target, **chosen).mean()


def race(session, loss, chosen) -> dict[str, dict[int, float]]:
    """Nanoseconds of an element, loss and gradient, by side and size; the sides take turns."""
    formula = written(loss, chosen)
    sides = {"eager": formula, "torch.compile": torch.compile(formula, dynamic=False),
             "fused": lambda x, t: loss(x, t, **chosen)}  # fmt: skip
    session.say("torch.compile compiles, too ...")
    found: dict[str, dict[int, float]] = {side: {} for side in sides}
    for size in QUICK_SIZES if session.quick else SIZES:
        x = (2 * torch.randn(size)).to(session.device).requires_grad_()
        t = (torch.rand(size) < 0.1).float().to(session.device)
        for side, seconds in turns(session, sides, x, t).items():
            found[side][size] = 1e9 * seconds / size
    found = {side: times for side, times in found.items() if times}
    rows = [[f"{size}", *(times[size] for times in found.values())] for size in found["fused"]]
    session.table(["elements", *(f"{side}, ns of one" for side in found)], rows)
    largest = max(found["fused"])
    ratios = {side: found[side][largest] / found["fused"][largest] for side in found}
    session.metrics(times_ns=found, faster_than_eager=ratios["eager"], faster_than_compiled=ratios.get("torch.compile"))
    said = " and ".join(f"{ratio:.1f} times faster than {side}" for side, ratio in ratios.items() if side != "fused")
    session.note(f"Of {largest} elements the compiled loss is {said}, loss and gradient")
    return found


def turns(session, sides: dict, x, t) -> dict[str, float]:
    """The least seconds of each side that runs here."""
    for side in list(sides):  # also compiles
        try:
            sides[side](x, t).backward()
        except RuntimeError as error:
            if side != "torch.compile":
                raise
            session.note(f"torch.compile does not run here: {(str(error).splitlines() or ['no reason given'])[0]}")
            del sides[side]
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(11 if session.quick else 31):
        for side in list(sides)[:: 1 if number % 2 else -1]:
            x.grad = None
            with clock(session.device, times[side]):
                sides[side](x, t).backward()
    return {side: min(values) for side, values in times.items()}


def draw(session, name, rows, times) -> None:
    figure, (left, right) = plots.axes(2, width=5.5)
    for number, (kind, column, colour) in enumerate((("recall", 1, plots.BLUE), ("precision", 2, plots.ORANGE))):
        bars = left.bar([i + (number - 0.5) * 0.38 for i in range(2)], [row[column] for row in rows[:2]], 0.36,
                        color=colour, label=kind, hatch="//" if number else None, edgecolor="white")  # fmt: skip
        left.bar_label(bars, fmt="%.2f", fontsize=10)
    left.set(title="Malignant tumours found", ylabel="share", ylim=(0, 1.28), xticks=range(2))
    left.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    left.set_xticklabels([row[0] for row in rows[:2]], fontsize=9)
    left.grid(axis="x", visible=False)
    left.legend(ncols=2, loc="upper center")
    for number, (side, values) in enumerate(times.items()):
        right.loglog(list(values), list(values.values()), plots.DASHES[number], marker="o",
                     color=plots.COLOURS[number], label=side)  # fmt: skip
    right.set(title=f"{name}, loss and gradient, one thread", xlabel="elements", ylabel="ns of an element")
    right.legend()
    session.picture(figure, "custom.png", f"Trained with {name}, written in Python and compiled; its time beside "
                    "the same formula in eager PyTorch and under torch.compile")  # fmt: skip

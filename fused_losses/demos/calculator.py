"""A small network learns to add or multiply two whole numbers from examples, with the fused mean squared error."""

from __future__ import annotations

import math

import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from torch import nn

from . import plots
from .cli import finite_float, positive_float, positive_int, size, whole_number
from .errors import DemoError
from .training import Batches, fit, predict, step_time, warm_up_and_decay

OPERATIONS = ("add", "multiply")
ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "leaky_relu": nn.LeakyReLU}
BOOK = {"mse": 1.6901, "mae": 1.0354, "r2": 0.9990, "predict(50, 50)": 100.02, "predict(6, 6)": 11.89}
DEFAULTS = {"optimizer": "adam", "learning_rate": 0.01, "epochs": 20, "batch": 64, "decay": True}
PRESETS = {"book": {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 10, "batch": 64, "decay": False}}


def options(parser) -> None:
    parser.add_argument("--operation", choices=OPERATIONS, default="add")
    parser.add_argument("--min", type=whole_number, default=0, help="smallest number (default 0)")
    parser.add_argument("--max", type=whole_number, default=100, help="largest number (default 100)")
    parser.add_argument("--samples", type=positive_int, default=10_000)
    parser.add_argument("--width", type=size, default=16, help="units of a hidden layer (default 16)")
    parser.add_argument("--depth", type=size, default=3, help="hidden layers (default 3)")
    parser.add_argument("--activation", choices=ACTIVATIONS, default="relu")
    parser.add_argument("--optimizer", choices=("adam", "sgd"), help=f"default {DEFAULTS['optimizer']}")
    parser.add_argument("--learning-rate", type=positive_float, help=f"default {DEFAULTS['learning_rate']}, decaying")
    parser.add_argument("--epochs", type=positive_int, help=f"default {DEFAULTS['epochs']}")
    parser.add_argument("--batch", type=positive_int, help=f"default {DEFAULTS['batch']}")
    parser.add_argument("--preset", choices=PRESETS, help="book: SGD at 0.1 without decay, 10 epochs, batch 64")
    parser.add_argument("--predict", nargs=2, type=finite_float, metavar=("A", "B"), help="one more question")
    parser.add_argument("--study", action="store_true", help="compare data, ranges, widths, optimisers; prints a table")


class Task:
    """Pairs of numbers and their normalisation: inputs by max, the answer by 2 max (add) or max^2 (multiply)."""

    def __init__(self, operation: str, low: int, high: int):
        if operation not in OPERATIONS:
            raise ValueError(f"operation: expected 'add' or 'multiply', got {operation!r}")
        self.operation, self.low, self.high = operation, low, high
        self.scale = 2 * high if operation == "add" else high**2

    def answer(self, pairs):
        """The true answers of whole-number pairs [n, 2], in original units."""
        return pairs.sum(dim=1) if self.operation == "add" else pairs.prod(dim=1)

    def draw(self, count, generator, low=None, high=None):
        """`count` pairs drawn uniformly from [low, high]: float32 [count, 2]."""
        low, high = self.low if low is None else low, self.high if high is None else high
        return torch.randint(low, high + 1, (count, 2), generator=generator).float()

    def inputs(self, pairs):
        return pairs / self.high

    def targets(self, pairs):
        return self.answer(pairs)[:, None] / self.scale


def network(width=16, depth=3, activation="relu") -> nn.Module:
    """2 -> width x depth -> 1."""
    layers, size = [], 2
    for _ in range(depth):
        layers += [nn.Linear(size, width), ACTIVATIONS[activation]()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, 1))


def settings(o) -> dict:
    """What is asked for on the command line, else the preset's, else the defaults."""
    chosen = dict(PRESETS[o.preset] if o.preset else DEFAULTS)
    chosen.update({name: getattr(o, name) for name in chosen if getattr(o, name, None) is not None})
    if chosen["optimizer"] == "sgd" and o.learning_rate is None:
        chosen["learning_rate"] = 0.1
    return chosen


def criterion(losses, output, batch):
    return losses.mse_loss(output, batch[1])


def learn(session, name, task, pairs, chosen, *, width=16, depth=3, activation="relu"):
    """Train on 80 % of the pairs, validate on the rest: (model, history, training batches, optimiser maker)."""
    torch.manual_seed(session.options.seed)
    model = network(width, depth, activation).to(session.device)
    cut = max(1, len(pairs) * 4 // 5)
    x, y = task.inputs(pairs), task.targets(pairs)
    device = session.device
    train = Batches(x[:cut], y[:cut], size=chosen["batch"], device=device, generator=session.generator(2))
    held = Batches(x[cut:], y[cut:], size=1024, device=device) if cut < len(pairs) else None

    def make(parameters):
        kind = torch.optim.Adam if chosen["optimizer"] == "adam" else torch.optim.SGD
        return kind(parameters, lr=chosen["learning_rate"])

    optimizer = make(model.parameters())
    schedule = warm_up_and_decay(optimizer, 50, chosen["epochs"] * len(train)) if chosen["decay"] else None
    history = fit(session, name, model, train, criterion, optimizer, epochs=chosen["epochs"], validation=held,
                  scheduler=schedule)  # fmt: skip
    return model, history, train, make


def compute(model, task, pairs, device):
    """The model's answers in original units."""
    return predict(model, task.inputs(pairs), device)[:, 0] * task.scale


def score(model, task, pairs, device) -> dict:
    """MSE, MAE and R2 in original units."""
    truth, guess = task.answer(pairs).numpy(), compute(model, task, pairs, device).numpy()
    return {"mse": float(mean_squared_error(truth, guess)), "mae": float(mean_absolute_error(truth, guess)),
            "r2": float(r2_score(truth, guess))}  # fmt: skip


def run(session) -> None:
    o = session.options
    if not 0 <= o.min < o.max <= 1_000_000:
        raise DemoError(f"Expected 0 <= --min < --max <= 1000000, got --min {o.min} --max {o.max}.")
    if o.study and o.max - o.min < 20:
        raise DemoError(f"Expected a range of at least 20 for --study, got --min {o.min} --max {o.max}.")
    task, chosen = Task(o.operation, o.min, o.max), settings(o)
    if session.quick:
        chosen["epochs"] = min(chosen["epochs"], 10)
    pairs, fresh = task.draw(o.samples, session.generator(0)), task.draw(2000, session.generator(1))
    session.data(
        f"{o.samples} pairs of whole numbers in [{o.min}, {o.max}], drawn with seed {o.seed}; 2000 fresh pairs"
    )
    shape = {"width": o.width, "depth": o.depth, "activation": o.activation}
    torch.manual_seed(o.seed)
    before = score(network(**shape).to(session.device), task, fresh, session.device)
    model, history, batches, make = learn(session, o.operation, task, pairs, chosen, **shape)
    after = score(model, task, fresh, session.device)
    session.metrics(**after, before_mse=before["mse"], before_r2=before["r2"])
    asked = [(50.0, 50.0), (6.0, 6.0)] + ([tuple(o.predict)] if o.predict else [])
    answers = dict(zip(asked, compute(model, task, torch.tensor(asked), session.device).tolist()))
    report(session, task, before, after, answers)
    draw(session, task, history, model, fresh, after)
    step_time(session, "mse_loss", model, batches, criterion, make)
    if o.study:
        study(session, task, chosen)


def report(session, task, before, after, answers) -> None:
    o = session.options
    book = o.operation == "add" and (o.min, o.max) == (0, 100)
    rows = [[n.upper(), before[n], after[n]] + ([BOOK[n]] if book else []) for n in ("mse", "mae", "r2")]
    session.table(["2000 fresh pairs", "untrained", "trained"] + (["the book"] if book else []), rows)
    for (a, b), answer in answers.items():
        name = f"predict({a:g}, {b:g})"
        session.results["metrics"][name] = answer
        truth = task.answer(torch.tensor([[a, b]])).item()
        beside = f", the book {BOOK[name]}" if book and name in BOOK else ""
        outside = "" if o.min <= min(a, b) and max(a, b) <= o.max else f"; it only learned {o.min} to {o.max}"
        session.say(f"{name} = {answer:.2f} (true {truth:g}{beside}{outside})")
    if book and not session.quick and o.preset is None:
        met = after["mse"] <= BOOK["mse"] and after["mae"] <= BOOK["mae"] and after["r2"] >= BOOK["r2"]
        session.results["metrics"]["meets_the_book"] = met
        session.say(f"The book's figures are {'met' if met else 'NOT met'}")


def draw(session, task, history, model, fresh, after) -> None:
    name = session.options.operation
    figure = plots.curves(
        {name: history}, f"Learning to {name}: mean squared error", log=True, ylabel="MSE, normalised"
    )
    session.picture(figure, "curves.png", f"Learning to {name}: training and validation error by epoch")
    truth, guess = task.answer(fresh).numpy(), compute(model, task, fresh, session.device).numpy()
    wrong = abs(truth - guess) > 1
    figure, (axis, errors) = plots.axes(2, width=5.6, height=4.8)
    ends = [truth.min(), truth.max()]
    axis.plot(ends, ends, color="#999999", linewidth=1, label="exact")
    axis.plot(truth[~wrong], guess[~wrong], ".", color=plots.BLUE, markersize=4, alpha=0.6,
              label=f"within 1 of the truth: {(~wrong).sum()}")  # fmt: skip
    if wrong.any():
        axis.plot(truth[wrong], guess[wrong], ".", color=plots.VERMILION, markersize=5,
                  label=f"further off: {wrong.sum()}")  # fmt: skip
    reach = 0.06 * (ends[1] - ends[0])
    for t, g in sorted(zip(truth[wrong], guess[wrong]), key=lambda pair: -abs(pair[0] - pair[1]))[:40]:
        away = reach if g > t else -reach
        axis.annotate("", (t, g), xytext=(t, g + away), arrowprops={"arrowstyle": "->", "color": "#CC0000", "lw": 1.1})
    answer = {"add": "sum", "multiply": "product"}[name]
    axis.set(title=f"Truth and prediction: R² {after['r2']:.5f}", xlabel=f"true {answer}", ylabel=f"predicted {answer}")
    axis.legend(loc="upper left", markerscale=2)
    for side in (-1, 1):
        errors.axhline(side, color="#CC0000", linestyle="--", linewidth=1)
    errors.plot(truth[~wrong], (guess - truth)[~wrong], ".", color=plots.BLUE, markersize=4, alpha=0.6)
    errors.plot(truth[wrong], (guess - truth)[wrong], ".", color=plots.VERMILION, markersize=5)
    errors.set(title=f"Error: MAE {after['mae']:.3f}, dashed at ±1", xlabel=f"true {answer}",
               ylabel=f"predicted {answer} - true {answer}")  # fmt: skip
    marked = f"a red arrow marks an error above 1{' (the 40 largest)' if wrong.sum() > 40 else ''}"
    session.picture(figure, "predictions.png", f"2000 fresh questions; {marked if wrong.any() else 'none is off by 1'}")


def study(session, task, chosen) -> None:
    """One change at a time: amount of data, range, width, optimiser, numbers never seen."""
    o, high = session.options, task.high
    fresh = task.draw(2000, session.generator(1))
    pool = task.draw(max(o.samples, 10_000), session.generator(0))
    unseen = torch.arange(o.min + 5, high, 10)  # 5, 15, 25 ... never shown in either place
    hidden = torch.isin(fresh, unseen.float()).any(dim=1)
    beyond = task.draw(2000, session.generator(3), high, 2 * high)
    plan = []
    for n in (100, 1000, 10_000):  # as many steps for each, so that only the data differs
        batches, most = (math.ceil(count * 0.8 / chosen["batch"]) for count in (n, 10_000))
        as_many_steps = {**chosen, "epochs": round(chosen["epochs"] * most / batches)}
        plan.append((f"{n} samples, {as_many_steps['epochs']} epochs", {}, as_many_steps, pool[:n], fresh))
    pool = pool[: o.samples]
    shown = ~torch.isin(pool, unseen.float()).any(dim=1)
    if not shown.any():
        raise DemoError(f"Expected more --samples for --study, got {o.samples}.")
    plan += [(f"hidden layers of {w}", {"width": w}, chosen, pool, fresh) for w in (4, 16, 64)]
    for kind, rate in (("sgd", 0.1), ("adam", 0.001)):
        how = {**PRESETS["book"], "optimizer": kind, "learning_rate": rate}
        plan.append((f"{kind} at {rate:g}, 10 epochs", {}, how, pool, fresh))
    plan += [
        (f"asked beyond the range, {high} to {2 * high}", {}, chosen, pool, beyond),
        ("asked about numbers never seen", {}, chosen, pool[shown], fresh[hidden]),
    ]
    rows, known = [], {}
    for name, shape, how, pairs, asked in plan:
        key = (tuple(shape.items()), tuple(how.items()), len(pairs))
        if key not in known:
            known[key] = learn(session, name, task, pairs, how, **shape)[0]
        found = score(known[key], task, asked, session.device)
        rows.append([name, found["mse"], found["mae"], found["r2"]])
    session.table([f"study: {o.operation}", "MSE", "MAE", "R2"], rows)
    session.results["study"] = {row[0]: dict(zip(("mse", "mae", "r2"), row[1:])) for row in rows}

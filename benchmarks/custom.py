"""Custom losses against the built-in ones, their plain form and torch.compile of it: `python -m benchmarks.custom`.

The built-in elementwise losses by their textbook formulas (textbook.py), and the gallery of the tests. All forms of a
loss take turns call by call in one process on one thread, whose own time is taken: other programs do not count.
Writes results/custom/<machine>.csv; `custom_report` makes tables of it.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from fused_losses import custom, functional
from fused_losses.custom.ahead import read

from . import cases
from .memory import REPOSITORY, live_peak
from .rows import RESULTS, machine_name

CUSTOM, BUILT_IN, EAGER, COMPILE = "custom", "built-in", "eager", "compile"
FIELDS = ["machine", "torch", "source", "loss", "family", "exponential", "shape", "form", "seconds", "ratio", "calls",
          "peak_bytes", "gradient_bytes"]  # fmt: skip
FILES = {"textbook": REPOSITORY / "benchmarks" / "textbook.py", "gallery": REPOSITORY / "tests" / "gallery.py"}
KEYWORDS = {"sigmoid_focal_loss": {"reduction": "mean"}, "weighted_binary_cross_entropy": {"class_weights": (0.7, 2.0)}}
KEYWORDS["weighted_binary_cross_entropy_with_logits"] = KEYWORDS["weighted_binary_cross_entropy"]


def leaves_of(loss) -> list[str]:
    """The tensors with a fused gradient."""
    return [t for t in loss.tensors if t in loss.op.tensors and loss.op.differentiable >> loss.op.tensors.index(t) & 1]


def tensors_of(loss, elements: int) -> dict[str, torch.Tensor]:
    """By name: of the built-in's benchmark, or of the family."""
    generator = torch.Generator().manual_seed(0)
    if loss.source_name == "textbook":
        case = cases.by_key(loss.__name__)
        return case.make(case.shape_of(elements), torch.float32, torch.device("cpu"), generator)
    shape = {"softmax": cases.rows(256), "overlap": cases.maps(16, 4), "row_sums": cases.rows(256)}
    shape = shape.get(loss.custom.functor.family, cases.flat)(elements)
    if loss.custom.functor.family == "softmax":
        return cases.logits_and_classes(shape, torch.float32, torch.device("cpu"), generator)
    made = {}
    for name in loss.tensors:
        labels = loss.custom.functor.labelled and name == "target"
        x = torch.randn(shape[:1] if labels else shape, generator=generator)
        bits = (name == "target" and leaves_of(loss) == ["input"]) or labels
        made[name] = (x > 0).float() if bits else x.abs() + 0.1 if name == "scale" else x
    return made


def forms_of(loss) -> dict[str, Callable]:
    """Each takes the tensors by name and returns a mean."""
    if loss.custom.functor.family == "elementwise":
        eager = lambda **tensors: loss.reference(*tensors.values()).mean()  # noqa: E731
    else:
        eager = partial(loss.op.reference, **loss.op.reference.__kwdefaults__)
    forms = {CUSTOM: loss, EAGER: eager, COMPILE: torch.compile(eager, dynamic=False)}
    if loss.source_name == "textbook":
        forms[BUILT_IN] = partial(getattr(functional, loss.__name__), **KEYWORDS.get(loss.__name__, {}))
    return forms


def measure(loss, elements: int, seconds: float) -> list[dict]:
    """A row for each form. ratio: of its time to the custom loss's, the median over the turns."""
    torch.compiler.reset()  # it gives up after eight functions of one line
    tensors = tensors_of(loss, elements)
    leaves = [tensors[name].requires_grad_() for name in leaves_of(loss)]
    forms = forms_of(loss)
    call = lambda form: torch.autograd.grad(forms[form](**tensors), leaves)  # noqa: E731
    expected, found = call(EAGER), {form: call(form) for form in forms}
    for form, gradients in found.items():
        for a, b in zip(gradients, expected):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * b.abs().max().item(), msg=f"{loss.__name__} {form}")
    peaks = {form: live_peak(lambda form=form: call(form)) for form in forms}
    taken = {form: [] for form in forms}
    end = time.process_time() + seconds
    while time.process_time() < end or len(taken[CUSTOM]) < 5:
        for form in list(forms)[:: 1 if len(taken[CUSTOM]) % 2 else -1]:
            begin = time.process_time()
            call(form)
            taken[form].append(time.process_time() - begin)
    first = tensors[loss.tensors[0]]
    return [
        {"source": loss.source_name, "loss": loss.__name__, "family": loss.custom.functor.family,
         "exponential": has_exponential(loss), "shape": "x".join(map(str, first.shape)), "form": form,
         "seconds": statistics.median(times), "calls": len(times),
         "ratio": statistics.median(t / c for t, c in zip(times, taken[CUSTOM])), "peak_bytes": peaks[form],
         "gradient_bytes": sum(leaf.nbytes for leaf in leaves)}
        for form, times in taken.items()
    ]  # fmt: skip


def has_exponential(loss) -> bool:
    """Of each element. A softmax has one; a power, or a logarithm alone, is none."""
    body = loss.source.partition("FL_HD")[2]
    return loss.custom.functor.family == "softmax" or any(f in body for f in ("sigmoid_terms(", "exp_("))


def losses() -> list:
    found = []
    for source, file in FILES.items():
        custom.build(file)
        for loss in read(file):
            loss.source_name = source
            found.append(loss)
    return found


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.custom", description=__doc__.splitlines()[0])
    parser.add_argument("--losses", type=lambda text: text.split(","), help="comma-separated (default: all)")
    parser.add_argument("--elements", type=int, default=1 << 20)
    parser.add_argument("--seconds", type=float, default=0.5, help="of calls for each loss")
    parser.add_argument("--output", type=Path, help="CSV file (default: results/custom/<machine>.csv)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    machine = machine_name(torch.device("cpu"))
    path = arguments.output or RESULTS / "custom" / f"{machine}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        for loss in losses():
            if arguments.losses is None or loss.__name__ in arguments.losses:
                for row in measure(loss, arguments.elements, arguments.seconds):
                    row = {n: f"{v:.6g}" if isinstance(v, float) else v for n, v in row.items()}
                    writer.writerow({"machine": machine, "torch": torch.__version__, **row})
                    print(*(row.get(field, "") for field in FIELDS[2:]), flush=True)
                file.flush()


if __name__ == "__main__":
    main()

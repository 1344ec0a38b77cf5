"""Writes the pages that follow from the losses and the measured rows: one for each topic, an index, the tables.

A loss's text is its docstring, its picture shapes.py's, its speed the latest rows of benchmarks/results.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from pathlib import Path

import shapes

import fused_losses
from benchmarks import report, scale_report
from benchmarks.measurements import RESULTS, compare, default_size, load, pick
from fused_losses import chunked, losses
from fused_losses import functional as F

FIXED = (
    "install",
    "choosing",
    "gallery",
    "benchmarks",
    "how",
    "adding",
    "index",
)  # where the site has a place for them
CONTRIBUTE = ("how", "adding", "benchmarks")
OPENING = ("install", "choosing")


TOPICS = {
    info.name: importlib.import_module(f"{package.__name__}.{info.name}")
    for package in (losses, chunked)
    for info in pkgutil.iter_modules(package.__path__)
}


def topics() -> dict[str, list[str]]:
    """The losses of each module of fused_losses/losses and chunked, in the order of their definition."""
    found = {}
    for topic, module in TOPICS.items():
        own = [n for n, v in vars(module).items() if n in F.__all__ and v.__module__ == module.__name__]
        if own:
            found[topic] = own
    return found


def title_of(topic: str) -> str:
    says = inspect.getdoc(TOPICS[topic]).splitlines()[0]
    return says.split(":")[0].rstrip(".")


def summary(loss: str) -> str:
    return inspect.getdoc(getattr(F, loss)).splitlines()[0].rstrip(".")


@cache
def modules() -> dict[str, str]:
    """Function -> Module."""
    classes = {name: getattr(fused_losses, name) for name in fused_losses.__all__}
    return {cls.function.__name__: name for name, cls in classes.items() if hasattr(cls, "function")}


@cache
def measured():
    return compare(load())


def speed(loss: str) -> str:
    """The cold rows of a loss at its default sizes, and of its variants."""
    table = pick(measured(), device="cpu", phase="both", incoming="one", mode="cold")
    table = default_size(table) if len(table) else table
    table = table[[name.split("+")[0] == loss for name in table.loss]] if len(table) else table
    if not len(table):
        return scale_report.measured(RESULTS, {loss}) or "Not measured yet."
    lines = [
        [f"`{r.loss}`", r.dtype, r.shape.replace("x", " × "), report.number(r.ns), *report.ratios(r),
         report.number(r.peak / r.gradients, 2, "×")]
        for r in table.itertuples()
    ]  # fmt: skip
    head = ["", "dtype", "input", "ns/element", "faster than eager", "than torch.compile", "peak memory / gradients"]
    note = f"Forward + backward with cold caches, {report.where(table)}; {report.runs_of(table)}."
    return f"{note}\n\n{report.markdown(head, lines)}"


def directive(name: str, argument: str, **options) -> str:
    lines = "".join(f":{key}: {value}\n" for key, value in options.items())
    return f"```{{{name}}} {argument}\n{lines}```\n"


def of_loss(loss: str) -> str:
    module = modules().get(loss)
    parts = [f"## {loss}\n", f"```{{eval-rst}}\n.. autofunction:: fused_losses.functional.{loss}\n```\n"]
    if loss in shapes.SHAPES:
        words = f"Loss and gradient of {loss} for several choices of its options"
        image = directive("image", f"../shapes/{loss}.svg", alt=words, **{"class": "shape"})
        parts.append(f"````{{container}} scroll\n{image}````\n")
    if module:
        parts.append(f"```{{eval-rst}}\n.. autoclass:: fused_losses.{module}\n```\n")
    parts += [f"### Speed and memory of {loss}\n", f"{speed(loss)}\n"]
    return "\n".join(parts)


def page(topic: str, names: list[str]) -> str:
    listed = [f"- [{name}](#{name.replace('_', '-')}): {summary(name)}" for name in names]
    return "\n".join([f"# {title_of(topic)}\n", *listed, "", *map(of_loss, names)])


def index(found: dict[str, list[str]]) -> str:
    listed = []
    for topic, names in found.items():
        listed.append(f"## {title_of(topic)}\n")
        for name in names:
            module = f" ({{py:class}}`~fused_losses.{modules()[name]}`)" if name in modules() else ""
            listed.append(f"- {{py:func}}`~fused_losses.functional.{name}`{module}: {summary(name)}.")
        listed.append("")
    toctree = "\n".join(["```{toctree}", ":hidden:", "", *found, "```"])
    more = (
        "In the examples `torch` is imported, and `fused_losses`, and `fused_losses.functional` as `F`.\n\n"
        "```{eval-rst}\n.. autofunction:: fused_losses.fit_gaussian\n\n"
        ".. autofunction:: fused_losses.functional.explain\n\n"
        ".. autofunction:: fused_losses.build_info\n```\n"
    )
    return "\n".join(["# The losses\n", *listed, toctree, "", "## Beside them\n", more])


def contents(folder: Path) -> str:
    """The site's tree: opening pages, losses, whatever other guide lies in docs/, what is behind."""
    others = sorted(p.stem for p in folder.parent.glob("*.md") if p.stem not in FIXED)
    first = [*OPENING, "generated/losses/index", *others, "gallery"]
    trees = [("Use", first), ("Inside", CONTRIBUTE)]
    return "\n".join(
        "\n".join(["```{toctree}", f":caption: {caption}", ":maxdepth: 1", ":hidden:", "", *names, "```", ""])
        for caption, names in trees
    )


def write(folder: Path) -> None:
    found = topics()
    texts = {f"losses/{topic}.md": page(topic, names) for topic, names in found.items()}
    texts |= {"losses/index.md": index(found), "toctree.md": contents(folder)}
    texts["measured.md"] = "\n\n".join(
        [f"## {title}\n\n{table(measured())}" for title, table in (
            ("The default sizes", report.cpu_table), ("64 elements", report.small_table), ("GPU", report.gpu_table))]
    )  # fmt: skip
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:  # an unchanged page is not read again
            path.write_text(text)
    shapes.main(str(folder / "shapes"))

"""Writes the table of losses between the markers of README.md from the library's own list; `--check` only compares."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import fused_losses
from fused_losses import _C, functional
from fused_losses._module import LossModule

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- losses:begin -->", "<!-- losses:end -->"


def modules() -> dict[str, str]:
    """Function name -> Module name."""
    found = {}
    for name in fused_losses.__all__:
        value = getattr(fused_losses, name)
        if inspect.isclass(value) and issubclass(value, LossModule):
            found[value.function.__name__] = name
    return found


def table() -> str:
    """The losses in the order of csrc/losses.h: function, Module, family, first line of the docstring."""
    names, lines = modules(), ["| function | Module | family | |", "|---|---|---|---|"]
    for name, family in _C.losses():
        if name in functional.__all__:
            says = inspect.getdoc(getattr(functional, name)).splitlines()[0].rstrip(".")
            lines.append(f"| `{name}` | `{names[name]}` | {family} | {says} |")
    return "\n".join(lines)


def filled(text: str) -> str:
    """`text` with the table of today between its markers."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    old = README.read_text()
    if "--check" in sys.argv[1:]:
        raise SystemExit(old != filled(old))
    README.write_text(filled(old))

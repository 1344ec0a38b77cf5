"""Writes what follows from the losses themselves: `functional.py`, `reference.py`, `__init__.py` and README's table.

A loss is what the decorator `loss` made in a module of fused_losses/losses; its Module is the LossModule made from it.
`--check` writes nothing and exits with 1 where a file is not what would be written.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

from fused_losses import _C, losses
from fused_losses._module import LossModule

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- losses:begin -->", "<!-- losses:end -->"
HELPERS = {"fit_gaussian"}  # public functions that are no losses

MODULES = {
    info.name: importlib.import_module(f"{losses.__name__}.{info.name}")
    for info in pkgutil.iter_modules(losses.__path__)
    if not info.name.startswith("_")
}


def functions(module) -> list[str]:
    """The losses that the module defines."""
    return sorted(
        n for n, value in vars(module).items() if hasattr(value, "op") and value.__module__ == module.__name__
    )


def classes(module) -> dict[str, str]:
    """Module -> function of each loss."""
    own = {name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    return {
        name: value.function.__name__
        for name, value in sorted(own.items())
        if inspect.isclass(value) and issubclass(value, LossModule)
    }


def listed(names) -> str:
    return "__all__ = [\n" + "".join(f'    "{name}",\n' for name in sorted(names)) + "]\n"


def imports(names_of) -> tuple[str, list[str]]:
    """The import lines of what `names_of` finds in each module, and all names."""
    found = {name: sorted(names_of(module)) for name, module in MODULES.items()}
    lines = [f"from .losses.{name} import {', '.join(names)}\n" for name, names in found.items() if names]
    return "".join(lines), [name for names in found.values() for name in names]


def functional() -> str:
    lines, names = imports(functions)
    return f'"""The fused losses as functions: import as `F`."""\n\n{lines}\n{listed(names)}'


def reference() -> str:
    says = "The same losses in plain PyTorch: the specification, and the path of whatever has no kernel."
    names = sorted(name for module in MODULES.values() for name in functions(module))
    lines = [f"{name} = functional.{name}.reference\n" for name in names]
    return f'"""{says}"""\n\nfrom . import functional\n\n{"".join(lines)}\n{listed(names)}'


def package() -> str:
    says = (
        "Fused loss functions for PyTorch: for each loss one kernel on the CPU and one on CUDA, forward and backward."
    )
    lines, names = imports(lambda module: [*classes(module), *(HELPERS & vars(module).keys())])
    head = f'"""{says}"""\n\nfrom . import functional, reference\nfrom ._version import __version__\n'
    return head + lines + "\n" + listed([*names, "functional", "reference", "__version__"])


def readme() -> str:
    """README with today's table in the order of csrc/losses.h: function, Module, family, first line of docstring."""
    public = {name: getattr(module, name) for module in MODULES.values() for name in functions(module)}
    module_of = {function: name for module in MODULES.values() for name, function in classes(module).items()}
    lines = ["| function | Module | family | |", "|---|---|---|---|"]
    for name, family in ((loss["name"], loss["family"]) for loss in _C.losses()):
        if name in public:
            says = inspect.getdoc(public[name]).splitlines()[0].rstrip(".")
            lines.append(f"| `{name}` | `{module_of[name]}` | {family} | {says} |")
    head, rest = (ROOT / "README.md").read_text().split(BEGIN)
    return f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{rest.split(END)[1]}"


def formatted(text: str) -> str:
    text = text.replace('"""\n\n', '"""\n\n# Written by tools/exports.py.\n\n', 1)
    for command in (["check", "--fix", "--quiet", "--select", "I,RUF022"], ["format"]):
        arguments = [sys.executable, "-m", "ruff", *command, "--stdin-filename", "exports.py", "-"]
        text = subprocess.run(arguments, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return text


def files() -> dict[Path, str]:
    sources = {"functional.py": functional, "reference.py": reference, "__init__.py": package}
    return {ROOT / "fused_losses" / name: formatted(write()) for name, write in sources.items()} | {
        ROOT / "README.md": readme()
    }


if __name__ == "__main__":
    stale = {path: text for path, text in files().items() if path.read_text() != text}
    for path, text in stale.items():
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
    raise SystemExit("--check" in sys.argv[1:] and bool(stale))

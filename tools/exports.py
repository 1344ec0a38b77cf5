"""Writes what follows from the losses themselves: the public modules, their type stubs, README's table; docs/edges.md,
the tables of docs/migration.md.

A loss is what the decorator `loss` made in a module of fused_losses/losses or chunked; its Module is the LossModule
made from it. `--check` writes nothing and exits with 1 where a file is not what would be written.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import promises
import replaced
import stubs

from fused_losses import _C, chunked, compat, losses
from fused_losses._module import LossModule

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- losses:begin -->", "<!-- losses:end -->"
HELPERS = {"fit_gaussian"}  # public functions that are no losses

MODULES = {
    f"{package.__name__.partition('.')[2]}.{info.name}": importlib.import_module(f"{package.__name__}.{info.name}")
    for package in (chunked, losses)
    for info in pkgutil.iter_modules(package.__path__)
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
    lines = [f"from .{name} import {', '.join(names)}\n" for name, names in found.items() if names]
    return "".join(lines), [name for names in found.values() for name in names]


FUNCTIONAL = '"""The fused losses as functions: import as `F`."""\n\n'
REFERENCE = '"""The same losses in plain PyTorch: the specification, and the path of whatever has no kernel."""\n\n'
PACKAGE = (
    '"""Fused loss functions for PyTorch: for each loss one kernel on the CPU and one on CUDA, forward and backward."""'
    "\n\n"
)
BUILD_INFO = "from ._build_info import build_info\n"
EXPLAIN = "from ._explain import explain as explain\n"  # beside the losses, so not in __all__
TYPES = """from typing import Literal

from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

"""


def public_functions() -> dict:
    found = {name: getattr(module, name) for module in MODULES.values() for name in functions(module)}
    return dict(sorted(found.items()))


def functional() -> str:
    lines, names = imports(functions)
    return f"{FUNCTIONAL}{EXPLAIN}{lines}\n{listed(names)}"


def functional_stub() -> str:
    found = public_functions()
    return f"{FUNCTIONAL}{TYPES}{EXPLAIN}\n{''.join(map(stubs.of_function, found.values()))}\n{listed(found)}"


def reference() -> str:
    lines = [f"{name} = functional.{name}.reference\n" for name in public_functions()]
    return f"{REFERENCE}from . import functional\n\n{''.join(lines)}\n{listed(public_functions())}"


def reference_stub() -> str:
    return f"{REFERENCE}from .functional import {', '.join(public_functions())}\n\n{listed(public_functions())}"


def package() -> str:
    lines, names = imports(lambda module: [*classes(module), *(HELPERS & vars(module).keys())])
    head = f"{PACKAGE}from . import functional, reference\n{BUILD_INFO}from ._version import __version__\n"
    return head + lines + "\n" + listed([*names, "functional", "reference", "build_info", "__version__"])


def package_stub() -> str:
    lines, names = imports(lambda module: HELPERS & vars(module).keys())
    found = dict(sorted((name, getattr(module, name)) for module in MODULES.values() for name in classes(module)))
    head = f"{PACKAGE}{TYPES}from . import functional, reference\n{BUILD_INFO}from ._module import LossModule\n"
    written = "".join(map(stubs.of_module, found.values()))
    return f"{head}{lines}\n__version__: str\n\n{written}\n" + listed(
        [*names, *found, "functional", "reference", "build_info", "__version__"]
    )


def compat_stub(module) -> str:
    adapters = [getattr(module, name) for name in module.__all__]
    head = "from typing import Any\n\nfrom torch import Tensor\n\nfrom ._adapter import Adapter\n\n"
    doc = f'"""{inspect.getdoc(module).partition(":")[0]}."""\n\n'
    return f"{doc}{head}{''.join(map(stubs.of_adapter, adapters))}\n{listed(module.__all__)}"


def readme() -> str:
    """README with today's table: a row for each topic, in the order of csrc/losses.h."""
    order = {loss["name"]: i for i, loss in enumerate(_C.losses())}
    topics = {}
    for module in MODULES.values():
        names = sorted(functions(module), key=lambda name: order.get(name, len(order)))
        if names:
            says = inspect.getdoc(module).splitlines()[0].split(":")[0].rstrip(".")
            topics[says] = names
    rows = sorted(topics.items(), key=lambda topic: order.get(topic[1][0], len(order)))
    lines = [f"| {says} | {', '.join(f'`{name}`' for name in names)} |" for says, names in rows]
    head, rest = (ROOT / "README.md").read_text().split(BEGIN)
    return f"{head}{BEGIN}\n" + "\n".join(["| | |", "|---|---|", *lines]) + f"\n{END}{rest.split(END)[1]}"


def formatted(name: str, text: str) -> str:
    text = text.replace('"""\n\n', '"""\n\n# Written by tools/exports.py.\n\n', 1)
    for command in (["check", "--fix", "--quiet", "--select", "F401,I,RUF022"], ["format"]):
        arguments = [sys.executable, "-m", "ruff", *command, "--stdin-filename", name, "-"]
        text = subprocess.run(arguments, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return text


def files() -> dict[Path, str]:
    sources = {
        "functional.py": functional, "reference.py": reference, "__init__.py": package,
        "functional.pyi": functional_stub, "reference.pyi": reference_stub, "__init__.pyi": package_stub,
    }  # fmt: skip
    for module in compat.LIBRARIES.values():
        sources[f"compat/{module.__name__.rpartition('.')[2]}.pyi"] = partial(compat_stub, module)
    return {ROOT / "fused_losses" / name: formatted(name, write()) for name, write in sources.items()} | {
        ROOT / "README.md": readme(),
        ROOT / "docs" / "edges.md": promises.page(),
        replaced.PAGE: replaced.page(),
    }


if __name__ == "__main__":
    stale = {path: text for path, text in files().items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
    raise SystemExit("--check" in sys.argv[1:] and bool(stale))

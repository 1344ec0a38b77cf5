"""The tree itself: no cycle among the imports of Python or the includes of C++."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fused_losses

ROOT = Path(fused_losses.__file__).resolve().parents[1]
if not (ROOT / "csrc").exists():
    pytest.skip("the installed package has no sources", allow_module_level=True)

FOLDERS = ("fused_losses", "benchmarks", "tests", "tools")
PYTHON = {path: path.relative_to(ROOT).with_suffix("").parts for f in FOLDERS for path in (ROOT / f).rglob("*.py")}
MODULES = {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in PYTHON.items()}
MODULES |= {name.removeprefix("tests."): path for name, path in MODULES.items()}  # tests import each other by file name
CPP = {str(path.relative_to(ROOT / "csrc")): path for path in (ROOT / "csrc").rglob("*.*")}


def imported(path: Path) -> set[Path]:
    """The files of this tree that a Python file imports, anywhere in it; a package's own `__init__` is not counted."""
    package = PYTHON[path][:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else base for name in names}
    files = {MODULES[name] for name in found if name in MODULES}
    return {file for file in files if file.name != "__init__.py" or file.parent not in path.parents}


def included(path: Path) -> set[Path]:
    """The files of csrc that a C++ file includes, from csrc or from its own folder."""
    names = re.findall(r'^\s*#\s*include "([^"]+)"', path.read_text(), re.MULTILINE)
    beside = str(path.parent.relative_to(ROOT / "csrc"))
    return {
        CPP[name] if name in CPP else CPP[f"{beside}/{name}"] for name in names if {name, f"{beside}/{name}"} & {*CPP}
    }


def assert_no_cycle(graph: dict[Path, set[Path]]) -> None:
    assert any(graph.values())
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("a cycle: " + " -> ".join(str(path.relative_to(ROOT)) for path in error.args[1]))


def test_no_cycle_of_imports():
    assert_no_cycle({path: imported(path) for path in PYTHON})


def test_no_cycle_of_includes():
    assert_no_cycle({path: included(path) for path in CPP.values()})

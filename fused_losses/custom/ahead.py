"""`custom.build`: compiles the losses of a file ahead, many in one library."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

from . import builder
from .environment import digest
from .loss import CustomLoss, made


def build(path: str | os.PathLike) -> list[str]:
    """Compiles every custom loss that the Python file defines, for machines and processes without a compiler.

    Returns the names of the losses. They are found by content: in the file itself, in a copy of it, and wherever the
    same formula is written. The compiled libraries are in the folder that :func:`cache_info` names, below
    TORCH_EXTENSIONS_DIR if that is set; take it along to a machine without a compiler.

    Raises FileNotFoundError for a path that is no file, ValueError for a file without a custom loss, and what the file
    itself raises.
    """
    losses = [loss.custom for loss in read(Path(path))]
    build_losses(losses)
    return [loss.name for loss in losses]


def read(path: Path) -> list[Callable]:
    """The losses that a file defines, in its order; raises as :func:`build`."""
    if not path.is_file() or path.suffix != ".py":
        raise FileNotFoundError(f"build: expected a Python file, got {path}")
    before = len(made())
    name = f"fused_losses_custom_{digest(str(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where torch.compile looks functions up
    sys.path.insert(0, str(path.resolve().parent))  # as where Python runs the file
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.resolve().parent))
    losses = made()[before:]
    if not losses:
        raise ValueError(f"build: expected a file that defines custom losses, got {path} without any")
    return losses


def build_losses(losses: list[CustomLoss]) -> None:
    """In one library: its host code is compiled once, its families at the same time."""
    missing = {loss.op_name: loss.functor for loss in losses if builder.find(loss.op_name) is None}
    if missing:
        builder.build(missing, say=lambda: builder.announce(f"{len(missing)} loss{'es' * (len(missing) > 1)}"))

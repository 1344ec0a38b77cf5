"""Custom losses on the emulated CUDA device: their functors in the drivers of csrc/cuda, compiled for the CPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import emulated_device
import torch

from fused_losses.custom import builder
from fused_losses.custom.environment import digest, environment

NAMESPACE = "fused_losses_custom_emulated"
ROOT = Path(__file__).parents[1]
_alive: list = []  # definitions last as long as they are


def load(losses) -> None:
    """Compiles and registers these losses, which then run there inside `emulated_device.emulated()`."""
    customs = [loss.custom for loss in losses]
    functors = {c.op_name: c.functor for c in customs}
    tool = _tool()
    folder = tool.folder_of(emulated_device.KIND) / f"custom_{digest(environment(), *sorted(functors))}"
    if not folder.exists():  # unchanged files keep their age
        folder.mkdir(parents=True)
        builder.write_sources(folder, functors, "cuda")
    library = tool.build_custom(emulated_device.KIND, folder, sorted(folder.glob("*.cu")))
    definitions = torch.library.Library(NAMESPACE, "DEF")
    for c in customs:
        c.prepare(torch.device("cpu"))
        for part, overload in (("", "default"), ("", "exported"), ("_backward", "default"), ("_into", "default")):
            schema = str(builder.op(c.op_name, part, overload)._schema)
            definitions.define(schema.removeprefix("fused_losses_custom::"))
    spec = importlib.util.spec_from_file_location(emulated_device.NAMESPACE, library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _alive.extend([definitions, module])
    emulated_device.custom_ops.extend((c.op, NAMESPACE, c.op_name) for c in customs)


def _tool():
    spec = importlib.util.spec_from_file_location("emulator_tool", ROOT / "tools" / "emulator.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

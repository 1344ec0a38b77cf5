"""What this build consists of: versions, instruction sets, kernels."""

from __future__ import annotations

import platform
from typing import Any

import torch

from . import _C, _op
from ._torch_private import has_kernel
from ._version import __version__

if _op.HAS_CUDA_KERNELS:
    from . import _C_cuda
else:
    _C_cuda = None


def _kernel(op: str, key: str) -> bool:
    return all(has_kernel(f"fused_losses::{name}", key) for name in (op, f"{op}_backward"))


def _ops_table() -> list[dict]:
    """One row for each op: its family, and where its forward and backward kernels are."""
    absent = "missing" if _C_cuda else "source, not built"
    return [
        {
            "op": name,
            "family": family,
            "cpu": "yes" if _kernel(name, "CPU") else "missing",
            "cuda": "yes" if _kernel(name, "CUDA") else absent,
        }
        for name, family in ((loss["name"], loss["family"]) for loss in _C.losses())
    ]


def build_info() -> dict[str, Any]:
    """Versions, instruction sets, CUDA architectures and the kernels of every op.

    Returns a dict with the keys `version`, `python`, `torch`, `torch_cuda` (None without), `cpu` (how `_C` was built,
    the instruction set in use and those this CPU has), `cuda` (how `_C_cuda` was built, None without it) and `ops`
    (a list of dicts with `op`, `family`, `cpu`, `cuda`).

    Example:
        >>> next(row for row in fused_losses.build_info()["ops"] if row["op"] == "dice_loss")["cpu"]
        'yes'
    """
    return {
        "version": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "cpu": {**_C.build_info(), "instruction_set": _C.cpu_isa(), "instruction_sets": list(_C.cpu_isas())},
        "cuda": dict(_C_cuda.build_info()) if _C_cuda else None,
        "ops": _ops_table(),
    }

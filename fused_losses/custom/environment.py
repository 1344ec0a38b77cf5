"""What decides the compiled code of a custom loss beside its formula: the sources of this package, and the platform."""

from __future__ import annotations

import hashlib
import json
import platform
from functools import cache
from pathlib import Path

from .. import _build_flags


def digest(*parts: str) -> str:
    """16 hexadecimal digits: names of files and ops are made of nothing else."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@cache
def sources() -> Path:
    """The folder of the C++ sources: beside the package in its repository, inside it where it is installed."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "csrc", package.parent / "csrc"):
        if (folder / "losses.h").exists():
            return folder
    raise FileNotFoundError("fused_losses: expected its C++ sources beside the package, found none; reinstall it")


@cache
def environment() -> str:
    """The digest of what else decides the compiled code: the sources and flags of this package, the platform."""
    texts = [
        f"{path.relative_to(sources())}\n{path.read_text()}"
        for path in sorted(sources().rglob("*.*"))
        if path.parent.name != "emulator" and path.suffix in (".h", ".cpp", ".cu", ".cuh")
    ]
    return digest(platform.machine(), repr(_build_flags.CXX_FLAGS), *texts)

"""Builds the CUDA kernels for the emulated device of the tests: `python tools/emulator.py [kind]`.

plain     for the test matrix
race      checks every access of a kernel: races, unwritten, foreign and misaligned memory
coverage  counts the lines that run

The library goes to build/emulator/<kind>/, never into the package. MAX_JOBS and CXX as in torch.utils.cpp_extension.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parents[1]
NAME = "fused_losses_emulated"
KINDS = {
    "plain": ["-O1", "-g0"],
    "race": ["-O1", "-g1", "-fsanitize=thread", "-DFL_TRACKED"],
    "coverage": ["-O0", "-g0", "--coverage"],
}


def stable_abi() -> str:
    """The stable ABI's flag of the other libraries."""
    spec = importlib.util.spec_from_file_location("fused_losses_setup", ROOT / "setup.py")
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    return setup.STABLE_ABI


def folder(kind: str) -> Path:
    return ROOT / "build" / "emulator" / kind


def cuda_sources(kind: str) -> list[str]:
    """Each .cu as a C++ file that includes it; build_facts.cu asks nvcc for facts and has no kernel."""
    sources = []
    for kernels in sorted(ROOT.glob("csrc/cuda/*.cu")):
        if kernels.stem == "build_facts":
            continue
        path = folder(kind) / f"{kernels.stem}.cpp"
        text = f'#include "cuda/{kernels.name}"\n'
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        sources.append(str(path))
    return sources


def build(kind: str) -> None:
    folder(kind).mkdir(parents=True, exist_ok=True)
    flags = ["-std=c++20", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-Wall"]
    cpp_extension.load(
        NAME,
        [*cuda_sources(kind), *map(str, sorted(ROOT.glob("csrc/emulator/*.c*")))],
        extra_cflags=[*flags, "-Wno-unknown-pragmas", "-DFL_EMULATED", stable_abi(), *KINDS[kind]],
        extra_ldflags=["-Wl,--wrap=aoti_torch_empty_strided", *(["--coverage"] if kind == "coverage" else [])],
        extra_include_paths=[str(ROOT / "csrc")],
        build_directory=str(folder(kind)),
        is_python_module=True,
    )


if __name__ == "__main__":
    kind = sys.argv[1] if len(sys.argv) > 1 else "plain"
    if kind not in KINDS:
        raise SystemExit(f"emulator: expected one of {', '.join(KINDS)}, got {kind}")
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    os.environ.setdefault("MAX_JOBS", "2")
    build(kind)

"""Builds the CUDA kernels for the emulated device of the tests: `python tools/emulator.py [kind]`.

plain     for the test matrix
race      checks every access of a kernel: races, unwritten, foreign and misaligned memory
coverage  counts the lines that run

The library goes to build/emulator/<kind>/, never into the package. CXX and MAX_JOBS as for setup.py.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parents[1]
NAME = "fused_losses_emulated"
KINDS = {
    "plain": ["-O1", "-g0"],
    "race": ["-O1", "-g1", "-fsanitize=thread", "-DFL_TRACKED"],  # its calls, without its library
    "coverage": ["-O0", "-g0", "--coverage"],
}
WRAPPED = ("aoti_torch_empty_strided", "aoti_torch_copy_", "aoti_torch_cpu_addmm_out", "torch_call_dispatcher")
FLAGS = ["-std=c++20", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
RULES = """
rule compile
  command = $compiler $flags -MMD -MF $out.d -x c++ -c $in -o $out
  description = $source
  depfile = $out.d
  deps = gcc
rule link
  command = $compiler -shared $in -o $out $link
  description = $out
"""


def stable_abi() -> str:
    """The stable ABI's flag of the other libraries."""
    spec = importlib.util.spec_from_file_location("fused_losses_setup", ROOT / "setup.py")
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    return setup.flags.STABLE_ABI


def sources() -> list[Path]:
    """All kernels, without build_facts.cu, which asks nvcc for facts; and the emulator."""
    kernels = [path for path in sorted(ROOT.glob("csrc/*/*.cu")) if path.stem != "build_facts"]
    return [*kernels, *sorted(ROOT.glob("csrc/emulator/*.cpp"))]


def ninja_file(kind: str, units: Sequence[Path], more: Sequence[str] = (), linked: Sequence[Path] = ()) -> str:
    """Of one library. more: flags before the others; linked: objects that are there."""
    includes = [ROOT / "csrc", *cpp_extension.include_paths(), sysconfig.get_path("include")]
    warnings = ["-Wall", "-Wno-unknown-pragmas"]
    defines = ["-DFL_EMULATED", f"-DFL_MODULE={NAME}", stable_abi()]
    flags = [*FLAGS, *warnings, *defines, *KINDS[kind], *(f"-isystem {path}" for path in includes[1:])]
    libraries = Path(torch.__file__).parent / "lib"
    link = [*(f"-Wl,--wrap={name}" for name in WRAPPED), f"-L{libraries}", f"-Wl,-rpath,{libraries}"]
    link += ["-ltorch", "-ltorch_cpu"]
    if kind == "coverage":
        link.append("--coverage")
    text = f"compiler = {os.environ.get('CXX', 'c++')}\nflags = {' '.join([*more, f'-I{includes[0]}', *flags])}\n"
    text += f"link = {' '.join(link)}\n{RULES}"
    objects = []
    for source in units:
        objects.append(f"{source.stem}.o")
        text += f"build {objects[-1]}: compile {source}\n  source = {source.relative_to(ROOT)}\n"
        if source.suffix == ".cpp":  # the machine, which most of the time goes to
            text += "  flags = $flags -O2\n"
    return text + f"build {NAME}.so: link {' '.join([*objects, *map(str, linked)])}\n"


def folder_of(kind: str) -> Path:
    return ROOT / "build" / "emulator" / kind


def build(folder: Path, ninja: str) -> int:
    """The exit status of ninja."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.ninja").write_text(ninja)
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    command = ["ninja", "--quiet", "-j", os.environ.get("MAX_JOBS", "2")]
    return subprocess.call(command, cwd=folder, env={**os.environ, "PATH": path})


def build_custom(kind: str, folder: Path, units: Sequence[Path]) -> Path:
    """The library of custom losses whose generated sources are in `folder`, with an emulator of its own."""
    machine = [folder_of(kind) / f"{source.stem}.o" for source in sources() if source.suffix == ".cpp"]
    if build(folder, ninja_file(kind, units, ["-DFL_CUSTOM", f"-I{folder}"], machine)):
        raise RuntimeError(f"the emulated library of custom losses in {folder} was not built")
    return folder / f"{NAME}.so"


if __name__ == "__main__":
    kind = sys.argv[1] if len(sys.argv) > 1 else "plain"
    if kind not in KINDS:
        raise SystemExit(f"emulator: expected one of {', '.join(KINDS)}, got {kind}")
    raise SystemExit(build(folder_of(kind), ninja_file(kind, sources())))

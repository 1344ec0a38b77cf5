"""Compiles libraries of custom losses and finds them again: a cache by content in the folder of torch's extensions.

A library, and the entry of each loss that names it, appear at once and complete: any number of processes and threads
may build and load at a time. No shell is involved, and no name in the cache is a user's text.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

from .. import _C, _build_flags
from .._torch_private import extensions_folder
from . import functors
from .environment import digest, environment, sources
from .functors import Functor

PREFIX = "custom_"  # of an op: PREFIX and the digest of its loss's content


def instruction_sets() -> list[str]:
    """Those that a library is compiled for: all, or with FUSED_LOSSES_CUSTOM_ISA=native the best of this machine."""
    if os.environ.get("FUSED_LOSSES_CUSTOM_ISA") == "native":
        best = _C.cpu_isas()[-1]
        return ["base" if best == "default" else best]
    return list(_build_flags.INSTRUCTION_SETS)


def folder() -> Path:
    """Where the libraries of this version are."""
    return extensions_folder() / "fused_losses" / f"{environment()}_{'_'.join(instruction_sets())}"


def find(name: str, device: str = "cpu") -> Path | None:
    """The library with the op `name` for a device, if it has been built."""
    try:
        entry = json.loads((folder() / f"{name}.{device}.json").read_text())
        library = folder() / entry["library"]
    except (OSError, ValueError, TypeError, KeyError):  # not there, or not as it was written
        return None
    return library if library.exists() else None


class NoCompiler(RuntimeError):
    """There is nothing to compile with."""


class Refused(RuntimeError):
    """The compiler does not take what it is given."""


def compiler() -> list[str]:
    """The C++ compiler and its own arguments, as for torch's extensions: $CXX, which may begin with ccache."""
    given = shlex.split(os.environ.get("CXX", ""))
    for name, *arguments in [given] if given else [["c++"], ["g++"]]:
        found = shutil.which(name)
        if found:
            return [found, *arguments]
    raise NoCompiler("no C++ compiler")


def nvcc() -> str | None:
    """nvcc, where torch has CUDA."""
    if torch.version.cuda is None:
        return None
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=os.path.join(home, "bin") if home else None)


def build(losses: dict[str, Functor], device: str = "cpu", say=None) -> Path:
    """The library of these losses by the names of their ops, compiled unless it is there. say(sentence): before work.

    Raises NoCompiler, or Refused with the compiler's words.
    """
    compiler() if device == "cpu" else None
    place = folder()
    place.mkdir(parents=True, exist_ok=True)
    name = f"{digest(*sorted(losses))}.{device}.so"
    with _locked(place / f"{name}.lock"):
        if not (place / name).exists():
            if say is not None:
                say()
            with tempfile.TemporaryDirectory(dir=place, prefix="build_") as temporary:
                made = _compile(Path(temporary), losses, device)
                os.replace(made, place / name)
        for op in losses:
            _write_whole(place / f"{op}.{device}.json", json.dumps({"library": name}))
    return place / name


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process, and one thread of it, inside at a time; freed by the system if it dies.

    Unlocked before it is closed, for a process forked meanwhile has the file open too.
    """
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def _write_whole(path: Path, text: str) -> None:
    """Nobody sees a part of the file, which others may read where the umask lets them."""
    part = path.with_name(f"entry_{os.getpid()}_{threading.get_ident()}")
    part.write_text(text)
    os.replace(part, path)


def families(losses: dict[str, Functor]) -> dict[str, dict[str, Functor]]:
    """The losses by their families."""
    found: dict[str, dict[str, Functor]] = {}
    for name, loss in losses.items():
        found.setdefault(loss.family, {})[name] = loss
    return found


def write_sources(place: Path, losses: dict[str, Functor], device: str) -> list[Path]:
    """The generated headers of a library; what is to be compiled."""
    (place / "custom_losses.h").write_text(functors.table(losses))
    found = families(losses)
    for family, members in found.items():
        (place / f"{family}_formulas.h").write_text(functors.formulas(members))
    return _cpu_units(place, list(found)) if device == "cpu" else _cuda_units(place, list(found))


def compile_command(place: Path, device: str) -> list[str]:
    """But for "-c", the source and "-o"."""
    command = [*compiler(), *_build_flags.CXX_FLAGS, "-fPIC"] if device == "cpu" else [nvcc(), *_nvcc_flags()]
    isas = instruction_sets()
    only = [f"-DFL_ONLY_ISA={isas[0]}"] if len(isas) == 1 else []
    return [*command, "-DFL_CUSTOM", *only, *include_flags(place)]


def include_flags(place: Path) -> list[str]:
    """For everything that is compiled with the generated headers in `place`."""
    root = Path(torch.__file__).parent / "include"
    headers = [root, root / "torch" / "csrc" / "api" / "include"]
    return [f"-I{place}", f"-I{sources()}", *(part for h in headers for part in ("-isystem", str(h)))]


def _compile(place: Path, losses: dict[str, Functor], device: str) -> Path:
    units = write_sources(place, losses, device)
    command = compile_command(place, device)

    def run(unit: tuple[Path, Path]) -> None:
        source, made = unit
        _run([*command, "-c", str(source), "-o", str(made)])

    objects = [(unit, place / f"{unit.stem}.{i}.o") for i, unit in enumerate(units)]
    with ThreadPoolExecutor(jobs()) as workers:
        list(workers.map(run, objects))
    made, libraries = place / "library.so", Path(torch.__file__).parent / "lib"
    names = ["torch", "torch_cpu", *(["torch_cuda", "c10_cuda"] if device == "cuda" else []), "c10"]
    linker = [*compiler(), "-shared"] if device == "cpu" else [nvcc(), "-shared"]
    _run([*linker, *(str(o) for _, o in objects), f"-L{libraries}", *(f"-l{n}" for n in names), "-o", str(made)])
    return made


def _cpu_units(place: Path, families: Sequence[str]) -> list[Path]:
    units = [sources() / "custom" / "library.cpp"]
    for family in families:
        for isa in instruction_sets():
            unit = place / f"{family}_{isa}.cpp"
            unit.write_text(_build_flags.loop_unit(family, isa, _formulas(family)))
            units.append(unit)
    return units[1:] + units[:1]


def _cuda_units(place: Path, names: Sequence[str]) -> list[Path]:
    units = []
    for family in names:
        units.append(place / f"{family}.cu")
        units[-1].write_text(f'{_formulas(family)}\n#include "cuda/{family}.cu"\n')
    return units


def _formulas(family: str) -> str:
    """The first line of a translation unit of that family."""
    return f'#define FL_FORMULAS "{family}_formulas.h"\n'


def _nvcc_flags() -> list[str]:
    """For the GPU that is there, without one for compute capability 9.0."""
    major, minor = torch.cuda.get_device_capability() if torch.cuda.is_available() else (9, 0)
    code = f"{major}{minor}"
    return [*_build_flags.NVCC_FLAGS, "-Xcompiler=-fPIC", f"-gencode=arch=compute_{code},code=sm_{code}"]


def jobs() -> int:
    given = os.environ.get("MAX_JOBS", "")
    return int(given) if given.isdigit() and int(given) > 0 else len(os.sched_getaffinity(0))


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        said = "\n".join((done.stderr or done.stdout).splitlines()[:20]) or f"exit status {done.returncode}"
        raise Refused(f"the compiler refused a generated source:\n{said}")


@cache
def load(library: Path) -> None:
    """Defines and registers the ops of a library in this process; its loops are of the instruction set of `_C`."""
    torch.ops.load_library(str(library))
    if library.name.endswith(".cpu.so"):
        ctypes.CDLL(str(library)).fused_losses_set_isa(_C.cpu_isa().encode())


def op(name: str, part: str = "", overload: str = "default"):
    """The overload of a loaded op, or None."""
    found = getattr(torch.ops.fused_losses_custom, f"{name}{part}", None)
    return None if found is None else getattr(found, overload)


def cache_info() -> dict:
    """Where the compiled losses are, how many, and how large: {"folder", "libraries", "losses", "bytes"}."""
    place = folder()
    libraries = sorted(place.glob("*.so")) if place.exists() else []
    return {
        "folder": str(place),
        "libraries": len(libraries),
        "losses": len({path.name.split(".")[0] for path in place.glob(f"{PREFIX}*.json")}) if libraries else 0,
        "bytes": sum(path.stat().st_size for path in libraries),
    }


def announce(what: str) -> None:
    """One line of progress, beside the program's output."""
    print(f"fused_losses.custom: compiling {what} ...", file=sys.stderr, flush=True)

"""Builds `fused_losses._C` (always) and `fused_losses._C_cuda` (where torch has CUDA and nvcc is found).

FUSED_LOSSES_CUDA      0: never build `_C_cuda`; 1: fail where it cannot be built
FUSED_LOSSES_SANITIZE  1: `_C` with AddressSanitizer and UndefinedBehaviorSanitizer
TORCH_CUDA_ARCH_LIST, MAX_JOBS, CXX, CUDA_HOME  as in torch.utils.cpp_extension
"""

import importlib.util
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import threading
from contextlib import contextmanager
from pathlib import Path

import setuptools
from setuptools import setup


def stop(sentence):
    raise SystemExit(f"fused_losses: {sentence}")


def load(path):
    """A Python file of this tree, without the package it lies in, which needs the libraries to be built."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, Path(__file__).parent / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


flags = load("fused_losses/_build_flags.py")


def numbers(version, count=2):
    """The first `count` numbers of a version string."""
    return tuple(int(n) for n in re.findall(r"\d+", version)[:count])


# Old setuptools cannot build a wheel by itself; without this check it says only "invalid command 'bdist_wheel'".
if numbers(setuptools.__version__) < (70, 1) and importlib.util.find_spec("wheel") is None:
    stop("this setuptools cannot build a wheel alone: run `pip install wheel` first.")


def see_the_environment():
    """Makes importable what is installed beside the running interpreter, which pip's isolated builds hide.

    A second torch of their own would be gigabytes, and the stable ABI makes it all the same which one compiles.
    """
    paths = sysconfig.get_paths()
    for folder in dict.fromkeys([paths["purelib"], paths["platlib"], *site.getsitepackages()]):
        site.addsitedir(folder)  # behind what is on the path already


if importlib.util.find_spec("torch") is None:
    see_the_environment()
try:
    import torch
    from torch.utils import cpp_extension
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    stop(
        "it compiles against the torch of your environment and finds none here: install torch 2.11 or newer first; "
        "where a tool builds in an environment of its own (uv, build), run `pip install --no-build-isolation .`."
    )

if numbers(torch.__version__) < (2, 11):
    stop(f"it needs torch 2.11 or newer and found {torch.__version__}: run `pip install 'torch>=2.11'` first.")

PYTHON_ABI = "cp310"  # the limited API: one binary for every CPython from 3.10 on
RELEASE_ARCHITECTURES = ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"]
SANITIZE = os.environ.get("FUSED_LOSSES_SANITIZE") == "1"

# What __FILE__ and messages say of the sources: no folder of the machine that built them.
PLACES = {Path(__file__).parent.resolve(): ".", Path(torch.__file__).parent.resolve(): "torch"}
PREFIX_MAPS = [f"-ffile-prefix-map={place}={name}" for place, name in PLACES.items()]
CXX_FLAGS = [*flags.CXX_FLAGS, *PREFIX_MAPS]
UNDEFINED = "undefined,float-cast-overflow"  # -fno-wrapv: Python's own flags define what signed overflow is
SANITIZER_FLAGS = ["-fno-wrapv", f"-fsanitize=address,{UNDEFINED}", f"-fno-sanitize-recover={UNDEFINED}"]
# nvcc's own shell splits at a space.
NVCC_FLAGS = [*flags.NVCC_FLAGS, *(f'-Xcompiler="{flag}"' for flag in PREFIX_MAPS)]


def files(*patterns):
    root = Path(__file__).parent
    return sorted(str(path.relative_to(root)) for pattern in patterns for path in root.glob(pattern))


DEPENDS = ["setup.py", "fused_losses/_build_flags.py", *files("csrc/**/*.h", "csrc/**/*.cuh")]


def loop_sources():
    """One translation unit for each file of hot loops and instruction set, written under build/."""
    folder = Path(__file__).parent / "build" / "loops"
    folder.mkdir(parents=True, exist_ok=True)
    sources = []
    for loops in files("csrc/cpu/*_loops.h"):
        family = Path(loops).stem.removesuffix("_loops")
        for isa in flags.INSTRUCTION_SETS:
            path, text = folder / f"{family}_{isa}.cpp", flags.loop_unit(family, isa)
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
            sources.append(str(path.relative_to(Path(__file__).parent)))
    return sources


def cpu_extension():
    options = [*CXX_FLAGS, *SANITIZER_FLAGS, "-O1", "-g"] if SANITIZE else CXX_FLAGS
    return cpp_extension.CppExtension(
        "fused_losses._C",
        ["csrc/ops.cpp", *files("csrc/cpu/*.cpp"), *loop_sources()],
        include_dirs=[str(Path("csrc").resolve())],
        extra_compile_args={"cxx": options},
        py_limited_api=True,
        extra_link_args=SANITIZER_FLAGS if SANITIZE else [],
        depends=DEPENDS,
    )


def cuda_obstacle():
    """Why `_C_cuda` is not built, or None. A toolkit that does not fit torch is an error rather than a silent skip."""
    if os.environ.get("FUSED_LOSSES_CUDA") == "0":
        return "FUSED_LOSSES_CUDA=0"
    if SANITIZE:
        return "FUSED_LOSSES_SANITIZE=1"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} has no CUDA"
    if not files("csrc/cuda/*.cu"):
        return "no CUDA sources"
    home = cpp_extension.CUDA_HOME
    nvcc = shutil.which("nvcc", path=os.path.join(home, "bin")) if home else None
    if nvcc is None:
        return "no nvcc found on PATH or under CUDA_HOME"
    release = re.search(r"release ([\d.]+)", subprocess.check_output([nvcc, "--version"], text=True)).group(1)
    if numbers(release, 1) != numbers(torch.version.cuda, 1):
        stop(
            f"nvcc is of CUDA {release} but torch is built for CUDA {torch.version.cuda}: install a toolkit of that "
            "major version, point CUDA_HOME at one, or set FUSED_LOSSES_CUDA=0 to build for the CPU only."
        )
    return None


def toolkit_of(nvcc):
    """The root of the CUDA toolkit; `nvcc` on PATH may be a link or a script that starts the real one."""
    trace = subprocess.run([nvcc, "--dryrun", "-E", "-x", "cu", os.devnull], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.+)$", trace.stdout + trace.stderr, re.MULTILINE)
    return Path(top.group(1).strip()).resolve() if top else Path(cpp_extension.CUDA_HOME)


def choose_architectures(nvcc):
    """The GPUs of this machine if it has any (torch's default); otherwise the release list, cut to what nvcc knows."""
    if os.environ.get("TORCH_CUDA_ARCH_LIST") or torch.cuda.is_available():
        return
    known = subprocess.check_output([nvcc, "--list-gpu-arch"], text=True).split()
    chosen = [a for a in RELEASE_ARCHITECTURES if f"compute_{a.replace('.', '')}" in known]
    os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(chosen) + "+PTX"


def gap_includes(toolkit):
    """Headers a small toolkit lacks (cublas, cusparse) come with torch's packages; searched last, they replace none."""
    if all((toolkit / "include" / header).exists() for header in ("cublas_v2.h", "cusparse.h", "cusolverDn.h")):
        return []
    wheels = Path(torch.__file__).parents[1] / "nvidia"
    return [str(path) for path in sorted(wheels.glob("*/include"))]


def cuda_extension():
    nvcc = os.path.join(cpp_extension.CUDA_HOME, "bin", "nvcc")
    choose_architectures(nvcc)
    toolkit = toolkit_of(nvcc)
    cpp_extension.CUDA_HOME = str(toolkit)
    gaps = gap_includes(toolkit)
    return cpp_extension.CUDAExtension(
        "fused_losses._C_cuda",
        files("csrc/cuda/*.cu", "csrc/cuda/*.cpp"),
        include_dirs=[str(Path("csrc").resolve())],
        library_dirs=[str(path) for path in (toolkit / "lib64", toolkit / "lib") if path.is_dir()],
        extra_compile_args={
            "cxx": [*CXX_FLAGS, "-DUSE_CUDA", *(f"-idirafter{path}" for path in gaps)],
            "nvcc": [*NVCC_FLAGS, *(f"-Xcompiler=-idirafter,{path}" for path in gaps)],
        },
        py_limited_api=True,
        depends=DEPENDS,
    )


def extensions():
    obstacle = cuda_obstacle()
    if obstacle is None:
        return [cpu_extension(), cuda_extension()], None
    if os.environ.get("FUSED_LOSSES_CUDA") == "1":
        stop(f"FUSED_LOSSES_CUDA=1 asks for the CUDA library, which cannot be built: {obstacle}.")
    return [cpu_extension()], obstacle


EXTENSIONS, CUDA_OBSTACLE = extensions()


COMPILATION = re.compile(r"^(\[\d+/\d+\]) .* -c (?:'([^']+)'|(\S+)) -o .*$")
LOOPS = re.compile(rf"build/loops/(\w+)_({'|'.join(flags.INSTRUCTION_SETS)})\.cpp")


def brief(line):
    """A line of `ninja -v`: of a compilation its count and source, anything else as it is."""
    found = COMPILATION.match(line.rstrip())
    if not found:
        return line
    source = os.path.relpath(found[2] or found[3], Path(__file__).parent)
    source = LOOPS.sub(r"csrc/cpu/\1_loops.h \2", source)
    return f"{found[1]} {source}\n"


@contextmanager
def brief_output():
    """Inside the block each line that this process and its children write to standard output passes through `brief`."""
    sys.stdout.flush()
    terminal = os.dup(1)
    read, write = os.pipe()
    os.dup2(write, 1)
    os.close(write)

    def copy():
        with os.fdopen(read, errors="replace") as lines, os.fdopen(os.dup(terminal), "w") as out:
            for line in lines:
                print(brief(line), end="", file=out, flush=True)

    reader = threading.Thread(target=copy)
    reader.start()
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(terminal, 1)  # closes the pipe, which ends the reader
        os.close(terminal)
        reader.join()


class Build(cpp_extension.BuildExtension):
    """Checks first what would otherwise end in a traceback, builds, and says in one line what was built."""

    def run(self):
        compiler = os.environ.get("CXX", "c++ or g++")
        found = any(shutil.which(name.split()[0]) for name in compiler.split(" or "))
        if not found:
            stop(f"no C++ compiler ({compiler}) found: install g++ 11 or newer, or name a compiler in CXX.")
        headers = sysconfig.get_path("include")
        if not os.path.exists(os.path.join(headers, "Python.h")):
            stop(f"Python.h is not in {headers}: install the headers of this Python (python3-dev).")
        with brief_output():
            super().run()
        if self.inplace:
            self.remove_older_builds()
        print(self.summary(), flush=True)

    def remove_older_builds(self):
        """A library of another name for the same module would be imported in place of the new one."""
        new = {Path(self.get_ext_fullpath(extension.name)).name for extension in self.extensions}
        for name in sorted(new):
            for path in Path("fused_losses").glob(f"{name.split('.')[0]}.*.so"):
                if path.name not in new:
                    path.unlink()

    def summary(self):
        cpu = f"_C for the CPU{' with sanitizers' if SANITIZE else ''}"
        if CUDA_OBSTACLE is None:
            cuda = f"and _C_cuda for {os.environ.get('TORCH_CUDA_ARCH_LIST') or 'the GPU of this machine'}"
        else:
            cuda = f"without CUDA ({CUDA_OBSTACLE})"
        version = self.distribution.get_version()
        return f"fused_losses {version}: built {cpu} {cuda}, with torch {torch.__version__}."


if __name__ == "__main__":
    # The ninja of the environment, also when its python is called by path.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    os.environ.setdefault("MAX_JOBS", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2))
    setup(
        license="Apache-2.0",
        ext_modules=EXTENSIONS,
        cmdclass={"build_ext": Build.with_options(use_ninja=True)},
        options={"bdist_wheel": {"py_limited_api": PYTHON_ABI}},
    )

"""The build: one run-time dependency, instruction sets of the binary, import without CUDA, errors of setup.py."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fused_losses
from fused_losses import _C, build_info
from fused_losses import functional as F

ROOT = Path(fused_losses.__file__).resolve().parents[1]
SETUP = ROOT / "setup.py"
from_a_checkout = pytest.mark.skipif(not SETUP.exists(), reason="the installed package has no setup.py")
AVX = re.compile(r"\b[yz]mm\d|\tv[a-z]\w*\s")  # a wide register or an instruction in the AVX encoding


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    """The Python code in a process of its own, in the folder that holds the package."""
    cleared = {"FUSED_LOSSES_CPU_ISA", "ATEN_CPU_CAPABILITY", "FUSED_LOSSES_CUDA", "FUSED_LOSSES_SANITIZE"}
    inherited = {name: value for name, value in os.environ.items() if name not in cleared}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=inherited | environment, capture_output=True, text=True, timeout=300
    )


def output(code: str, **environment: str) -> str:
    done = run(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ------------------------------------------------------------------------------------------------ package and import


def test_import_needs_no_cuda_library():
    blocked = output(
        "import sys; sys.modules['fused_losses._C_cuda'] = None\n"
        "import torch, fused_losses\n"
        "from fused_losses import _op, functional as F\n"
        "x = torch.zeros(3, requires_grad=True)\n"
        "F.mse_loss(x, torch.ones(3)).backward()\n"
        "print(_op.HAS_CUDA_KERNELS, x.grad.sum().item())"
    )
    assert blocked == "False -2.0"


def test_import_needs_no_compiler_and_no_gpu():
    compiler = "'torch.utils.cpp_extension' in sys.modules"
    assert output(f"import sys, torch, fused_losses; print(torch.cuda.is_initialized(), {compiler})") == "False False"


def test_version_is_stated_once():
    assert re.fullmatch(r"\d+\.\d+\.\d+", fused_losses.__version__)
    assert build_info()["version"] == fused_losses.__version__


@from_a_checkout
def test_torch_is_the_only_run_time_dependency():
    assert 'dependencies = ["torch>=2.11"]' in (ROOT / "pyproject.toml").read_text()


def test_library_imports_only_torch_and_the_standard_library():
    package = Path(fused_losses.__file__).parent
    allowed = set(sys.stdlib_module_names) | {"torch"}
    for path in [*package.glob("*.py"), *package.glob("losses/*.py"), *package.glob("chunked/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level > 0:
                continue
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert {name.split(".")[0] for name in names} <= allowed, f"{path.name}: {names}"


# ------------------------------------------------------------------------------------------------ info


def test_info_lists_every_loss_with_a_kernel():
    done = subprocess.run(
        [sys.executable, "-m", "fused_losses.info"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[2] for line in done.stdout.split("\n\n")[1].splitlines()[1:]}
    assert set(F.__all__) <= set(rows)
    assert set(rows.values()) == {"yes"}


def test_build_info_holds_the_facts_of_the_build():
    info = build_info()
    assert info["cpu"]["instruction_set"] in info["cpu"]["instruction_sets"]
    assert "compiler" in info["cpu"]
    assert [row["op"] for row in info["ops"]] == [loss["name"] for loss in _C.losses()]


# ------------------------------------------------------------------------------------------------ instruction sets

PRINT_ISA = "from fused_losses import _C; print(_C.cpu_isa())"


@pytest.mark.parametrize("variable", ["FUSED_LOSSES_CPU_ISA", "ATEN_CPU_CAPABILITY"])
@pytest.mark.parametrize("isa", ["default", "avx2", "avx512"])
def test_environment_chooses_the_instruction_set(variable, isa):
    supported = _C.cpu_isas()
    assert output(PRINT_ISA, **{variable: isa}) == (isa if isa in supported else supported[-1])


def test_own_variable_wins_over_that_of_torch():
    assert output(PRINT_ISA, FUSED_LOSSES_CPU_ISA="default", ATEN_CPU_CAPABILITY="avx2") == "default"


def test_unknown_instruction_set_in_the_environment_is_ignored():
    assert output(PRINT_ISA, FUSED_LOSSES_CPU_ISA="avx1024") == _C.cpu_isas()[-1]


def test_set_cpu_isa():
    automatic = _C.cpu_isa()
    try:
        for isa in _C.cpu_isas():
            assert _C.set_cpu_isa(isa) == isa == _C.cpu_isa()
        with pytest.raises(ValueError, match='got "sse9"'):
            _C.set_cpu_isa("sse9")
    finally:
        _C.set_cpu_isa("")
    assert _C.cpu_isa() == automatic


@pytest.mark.promise("Bits and builds", "No folder of the machine that built it is in the binary.")
@from_a_checkout
def test_no_folder_of_the_build_is_in_the_binary():
    binary = Path(_C.__file__).read_bytes()
    for folder in (ROOT, Path(torch.__file__).resolve().parent):
        assert str(folder).encode() not in binary, folder


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_avx_only_in_the_namespaces_of_its_targets():
    """A template shared by two targets is merged by the linker: the baseline path would run AVX-512 code."""
    wide = {"avx2": set(), "avx512": set()}
    stray, baseline, function = set(), 0, ""
    with subprocess.Popen(
        ["objdump", "-d", "--no-show-raw-insn", _C.__file__], stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if line.endswith(">:\n"):
                function = line.split("<", 1)[1]
                baseline += "12fused_losses4base" in function
            elif AVX.search(line):
                target = "avx512" if "6avx512" in function else "avx2" if "4avx2" in function else None
                (wide[target] if target else stray).add(function)
    assert process.returncode == 0
    assert baseline > 0
    assert not stray
    if "avx2" in _C.cpu_isas():  # an x86 build: the wide variants are really wide
        assert len(wide["avx2"]) > 10
        assert len(wide["avx512"]) > 10


# ------------------------------------------------------------------------------------------------ output of setup.py


@from_a_checkout
def test_a_build_step_is_one_line_and_messages_of_the_compiler_stay():
    command = "c++ -MMD -MF x.o.d -O3 -c -c {} -o x.o -std=c++20 -DNAME=_C"
    sources = [ROOT / "csrc/cpu/overlap.cpp", ROOT / "build/loops/row_sums_avx512.cpp", ROOT / "csrc/cuda/overlap.cu"]
    messages = ["csrc/cpu/overlap.cpp:3:1: warning: unused", "FAILED: x.o", command.format(sources[0])]
    lines = [f"[{i}/31] {command.format(source)}" for i, source in enumerate(sources, 1)] + messages
    printed = output(
        "import runpy, subprocess\n"
        "with runpy.run_path('setup.py')['brief_output']():\n"
        f"    subprocess.run(['printf', '%s\\n', *{lines}])\n"
    )
    assert printed.splitlines() == [
        "[1/31] csrc/cpu/overlap.cpp", "[2/31] csrc/cpu/row_sums_loops.h avx512", "[3/31] csrc/cuda/overlap.cu",
        *messages,
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------ errors of setup.py


def refusal(preparation: str, tmp_path, **environment: str) -> str:
    """The one sentence with which setup.py stops."""
    arguments = ["setup.py", "-q", "build_ext", "--build-lib", str(tmp_path), "--build-temp", str(tmp_path)]
    start = f"sys.argv = {arguments}\nrunpy.run_path('setup.py', run_name='__main__')"
    code = f"import runpy, sys\n{preparation}\n{start}"
    done = run(code, **environment)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@from_a_checkout
def test_build_without_torch_says_how_to_install(tmp_path):
    message = refusal("sys.modules['torch'] = None", tmp_path)
    assert "install torch 2.11 or newer" in message
    assert "pip install --no-build-isolation ." in message


@from_a_checkout
def test_build_with_an_old_torch_says_which_is_needed(tmp_path):
    message = refusal("import torch; torch.__version__ = '2.10.1'", tmp_path)
    assert "needs torch 2.11 or newer and found 2.10.1" in message


@from_a_checkout
def test_build_without_a_compiler_says_what_to_install(tmp_path):
    assert "install g++" in refusal("", tmp_path, CXX="absent-compiler", FUSED_LOSSES_CUDA="0")


@from_a_checkout
def test_cuda_asked_for_but_impossible(tmp_path):
    message = refusal("import torch; torch.version.cuda = None", tmp_path, FUSED_LOSSES_CUDA="1")
    assert re.search(r"FUSED_LOSSES_CUDA=1 .* cannot be built: torch .* has no CUDA\.$", message)


@from_a_checkout
def test_toolkit_of_another_cuda_than_torch(tmp_path):
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 11.8, V11.8.89'\n")
    nvcc.chmod(0o755)
    preparation = (
        "import torch; torch.version.cuda = '13.0'\n"
        f"from torch.utils import cpp_extension; cpp_extension.CUDA_HOME = {str(tmp_path)!r}"
    )
    message = refusal(preparation, tmp_path)
    assert "nvcc is of CUDA 11.8 but torch is built for CUDA 13.0" in message
    assert "FUSED_LOSSES_CUDA=0" in message

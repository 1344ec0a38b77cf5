"""How the C++ and CUDA sources are compiled: by setup.py, which reads this file alone, and for custom losses."""

import platform

STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # one binary for every torch from 2.11 on
X86 = platform.machine().lower() in ("x86_64", "amd64")
INSTRUCTION_SETS = ["base", "avx2", "avx512"] if X86 else ["base"]
# Never -ffast-math: it breaks the rounding of exp. No -march: the sources choose the instruction sets themselves.
CXX_FLAGS = ["-std=c++20", "-O3", "-g0", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math",
             "-fvisibility=hidden", "-Wall", STABLE_ABI]  # fmt: skip
# torch.utils.cpp_extension forbids the operators of half types; the sources compile alike with a bare nvcc.
HALF_OPERATORS = ["HALF_OPERATORS", "HALF_CONVERSIONS", "BFLOAT16_CONVERSIONS", "HALF2_OPERATORS"]
NVCC_FLAGS = [
    *["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-DUSE_CUDA", STABLE_ABI, "-Xcompiler=-fvisibility=hidden"],
    *(f"-U__CUDA_NO_{name}__" for name in HALF_OPERATORS),
]


def loop_unit(family, isa, *lines):
    """The translation unit of a family's hot loops for one instruction set, which `lines` begin."""
    headers = [f"target_{isa}.h", f"{family}_loops.h", "target_end.h"]
    return "\n".join([*lines, *(f'#include "cpu/{name}"\n' for name in headers)])

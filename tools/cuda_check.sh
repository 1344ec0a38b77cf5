#!/usr/bin/env bash
# Builds, links and imports the CUDA library against the CUDA build of torch 2.11.0; needs nvcc, no GPU.
# FUSED_LOSSES_CUDA_PYTHON names an interpreter that has such a torch; otherwise .venv-cuda is made (some 5 GB).
# TORCH_CUDA_ARCH_LIST defaults to 9.0: linking and importing are the same for every architecture.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v nvcc >/dev/null || { echo "cuda-check: no nvcc on PATH; install a CUDA toolkit." >&2; exit 1; }
python=${FUSED_LOSSES_CUDA_PYTHON:-}
if [ -z "$python" ]; then
  python=$PWD/.venv-cuda/bin/python
  [ -x "$python" ] || "${PYTHON:-python3}" -m venv .venv-cuda
  "$python" -c "import torch" 2>/dev/null || "$python" -m pip install --quiet torch==2.11.0
  "$python" -c "import setuptools, wheel, ninja" 2>/dev/null || "$python" -m pip install --quiet setuptools wheel ninja
fi
"$python" -c "
import torch
if torch.version.cuda is None:
    raise SystemExit(f'cuda-check: torch {torch.__version__} is no CUDA build; name another in FUSED_LOSSES_CUDA_PYTHON.')"

lib=$PWD/build/cuda/lib
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0}
FUSED_LOSSES_CUDA=1 "$python" setup.py -q build --build-base build/cuda --build-lib "$lib"
cd "$lib"
"$python" -c "
import torch, fused_losses
from fused_losses import _C_cuda
print('_C_cuda', _C_cuda.build_info())"
"$python" -m fused_losses.info

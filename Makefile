# `make demo` and `make test` set up everything they need; the second time they are quick. `make help` lists the rest.
PYTHON ?= python3
MAX_JOBS ?= 2
# A library for GPUs is built where there is a GPU; FUSED_LOSSES_CUDA=1 or 0 decides otherwise.
FUSED_LOSSES_CUDA ?= $(if $(shell nvidia-smi -L 2>/dev/null),,0)
export MAX_JOBS FUSED_LOSSES_CUDA

# The interpreter that tools/environment.py chose; known once an `environment` prerequisite has run.
PY = $(shell cat build/environment)
# The extras of pyproject.toml that the goals asked for need.
EXTRAS_demo := demos bench
EXTRAS_test := test demos bench
EXTRAS_sanitize := test demos bench
EXTRAS_fuzz := test
EXTRAS_cuda-race := test demos bench
EXTRAS_cuda-coverage := test demos bench
EXTRAS_bench := bench
EXTRAS_compare := bench
EXTRAS_wheel := wheel
EXTRAS_docs := docs bench
EXTRAS_lint := dev
EXTRAS_format := dev
EXTRAS := $(sort $(foreach goal,$(MAKECMDGOALS),$(EXTRAS_$(goal))))
# Test workers, where pytest-xdist is there.
WORKERS = $(shell $(PY) -c "import xdist; print('-n 2')" 2>/dev/null)
SOURCES := setup.py $(shell find csrc -type f)
LIBRARY := build/library$(FUSED_LOSSES_CUDA)
CUDA_OBJECTS := $(patsubst csrc/cuda/%.cu,build/cuda-compile/%.o,$(wildcard csrc/cuda/*.cu))
CUDA_HEADERS := $(shell find csrc -name '*.h' -o -name '*.cuh')

.DELETE_ON_ERROR:
.PHONY: help demo test fuzz bench compare sanitize cuda-check cuda-compile cuda-race cuda-coverage emulator docs wheel lint format clean FORCE
FORCE:

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */|/' | awk -F'|' '{printf "make %-14s %s\n", $$1, $$2}'

build/environment: FORCE
	@$(PYTHON) tools/environment.py $(EXTRAS)

$(LIBRARY): $(SOURCES) build/environment $(if $(wildcard fused_losses/_C.*.so),,FORCE)
	$(PY) setup.py -q build_ext --inplace
	@touch $@

demo: $(LIBRARY)  ## train the Siamese network with fused losses, then the benchmark table
	$(PY) -m fused_losses.demos siamese --output output/siamese
	$(PY) -m benchmarks.run --quick

test: $(LIBRARY) emulator  ## all tests
	$(PY) -m pytest tests -q $(WORKERS) $(TEST_ARGUMENTS)

SECONDS ?= 60
fuzz: $(LIBRARY)  ## random calls against the reference: make fuzz SECONDS=3600 SEED=1
	PYTHONPATH=. $(PY) tests/fuzz.py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(FUZZ_ARGUMENTS)

bench: $(LIBRARY)  ## the full benchmark, its CSV, tables and plots; after Ctrl-C it goes on where it was
	$(PY) -m benchmarks.run --repeat 3 --resume
	$(PY) -m benchmarks.scale
	$(PY) -m benchmarks.custom
	$(PY) -m benchmarks.report

compare: $(LIBRARY)  ## this tree against another build, call by call: make compare AGAINST=HEAD~3
	$(PY) -m benchmarks.compare --against $(AGAINST) $(COMPARE_ARGUMENTS)

emulator: build/environment
	$(PY) tools/emulator.py

cuda-race: $(LIBRARY)  ## every memory access of the CUDA kernels checked, on the CPU: races, fences, bounds
	$(PY) tools/emulator.py race
	FUSED_LOSSES_EMULATOR=race $(PY) -m pytest tests/test_emulator.py tests/test_race.py -q $(WORKERS) $(TEST_ARGUMENTS)

cuda-coverage: $(LIBRARY)  ## the lines of the CUDA kernels that no test runs, on the CPU
	$(PY) tools/emulator.py coverage
	rm -f build/emulator/coverage/*.gcda
	FUSED_LOSSES_EMULATOR=coverage $(PY) -m pytest tests -q $(WORKERS) -k "emulated or race" $(TEST_ARGUMENTS)
	$(PY) tools/emulator_coverage.py

sanitize: build/environment  ## value tests of an ASan/UBSan build, in build/sanitize
	tools/sanitize.sh $(PY) $(SANITIZE_ARGUMENTS)

cuda-check:  ## build, link and import the CUDA library against torch 2.11.0's CUDA build (no GPU needed)
	tools/cuda_check.sh

cuda-compile: build/environment  ## compile every .cu for sm_90 (no GPU, no CUDA torch needed)
	@command -v nvcc >/dev/null || { echo "cuda-compile: no nvcc on PATH; install a CUDA toolkit." >&2; exit 1; }
	@$(MAKE) --no-print-directory -j2 $(CUDA_OBJECTS) \
	  TORCH="$$($(PY) -c "import importlib.util as u; print(*u.find_spec('torch').submodule_search_locations)")"
	@echo "Compiled for sm_90: $(notdir $(CUDA_OBJECTS))"

build/cuda-compile/%.o: csrc/cuda/%.cu $(CUDA_HEADERS)
	@mkdir -p $(@D)
	nvcc -c $< -o $@ -gencode=arch=compute_90,code=sm_90 -std=c++20 --expt-relaxed-constexpr -DUSE_CUDA \
	  -DTORCH_TARGET_VERSION=0x020b000000000000 -Icsrc -isystem $(TORCH)/include

docs: $(LIBRARY)  ## the site, in build/docs/index.html
	PYTHONPATH=. $(PY) -m sphinx -W --keep-going -q -b html docs build/docs
	$(PY) docs/links.py build/docs

# What cannot run here can still be built: nvcc is enough, and a torch with CUDA.
wheel: FUSED_LOSSES_CUDA := $(if $(filter file,$(origin FUSED_LOSSES_CUDA)),$(if $(shell command -v nvcc),,0),$(FUSED_LOSSES_CUDA))
wheel: build/environment  ## wheel and sdist, in dist/: make wheel TORCH_VERSIONS="2.11 2.13" tests them, AGAIN=1 builds twice
	$(PY) tools/wheel.py $(if $(AGAIN),--again) $(if $(TORCH_VERSIONS),--test $(TORCH_VERSIONS))

CPP_FILES = $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

lint: $(LIBRARY)  ## formatting and lint: ruff, clang-format
	$(PY) -m ruff check .
	PYTHONPATH=. $(PY) tools/exports.py --check
	$(PY) -m ruff format --check .
	$(dir $(PY))clang-format --dry-run --Werror $(CPP_FILES)

format: build/environment  ## apply ruff and clang-format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(dir $(PY))clang-format -i $(CPP_FILES)

clean:  ## remove what was built; environments stay
	rm -rf build dist output *.egg-info fused_losses/*.so .pytest_cache .hypothesis .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

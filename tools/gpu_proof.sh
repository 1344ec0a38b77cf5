#!/usr/bin/env bash
# Proof on a GPU, part by part: builds for it, runs the GPU tests, the sanitizers and the benchmark; a summary comes last.
#
#   tools/gpu_proof.sh all | build | test | results | sanitize | roof | bench | summary   [further arguments for pytest or benchmarks.run]
#   tools/gpu_proof.sh dry-run     everything that needs no GPU: CUDA build and link, collection, the benchmark's CPU path
#
# A call ends within LIMIT seconds (540): what is running then is cut off, what has not begun waits for the next call.
# What passed is not run again until a source it depends on changes (FORCE=1 runs it anyway). The sanitizers keep this
# note for each tool and share of the calls, the benchmark for each loss and size of its CSV. Logs and notes:
# build/gpu_proof, packed with the CSV into $OUT/gpu_proof.tar.gz if OUT names a folder.
# PYTHON (python3) must have torch with CUDA, pytest and hypothesis; TORCH_CUDA_ARCH_LIST defaults to 9.0 (Hopper).
# Arguments after `test` choose tests; SANITIZERS names some of the four tools, SANITIZER_SHARES (2) into how many shares
# the calls of each are parted; TEST_JOBS (4) and SANITIZER_JOBS (2) processes run at a time.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
proof=build/gpu_proof
mkdir -p "$proof/notes"
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0}

limit=${LIMIT:-540}
left() { echo $((limit > SECONDS ? limit - SECONDS : 1)); }
within() { timeout -k 10 "$(left)" "$@"; } # the command, cut off when the call's time is over

say() { printf '\n== %s\n' "$*"; }

sources() { # PATH...: a digest of the files
  find "$@" -type f -not -path '*/__pycache__/*' -not -name '*.so' -print0 | sort -z | xargs -0 cat | sha256sum | cut -c1-16
}
library() { echo "$TORCH_CUDA_ARCH_LIST $(sources setup.py csrc)"; }
tested() { echo "$(library) $(sources fused_losses tests)"; }

# once NAME DIGEST COMMAND...: runs the command unless it passed with this digest; keeps its output in a log.
once() {
  local name=$1 digest=$2 note=$proof/notes/$1
  shift 2
  if [ -z "${FORCE:-}" ] && [ "$(cat "$note" 2>/dev/null)" = "passed $digest" ]; then
    echo "$name: passed before, sources unchanged"
    return 0
  fi
  if [ "$(left)" -lt 15 ]; then
    echo "waiting $digest" >"$note"
    return 1
  fi
  echo "started $digest" >"$note"
  local begin=$SECONDS status=0
  "$@" >"$proof/$name.log" 2>&1 || status=$?
  local took="$((SECONDS - begin)) s"
  case $status in
    0) echo "passed $digest" >"$note" && echo "$name: passed in $took" ;;
    75 | 124 | 137) echo "cut $digest" >"$note" && echo "$name: out of time after $took" ;;
    *)
      echo "failed $digest" >"$note"
      echo "$name: FAILED after $took; the end of $proof/$name.log:"
      tail -n 25 "$proof/$name.log"
      ;;
  esac
  return $status
}

need_gpu() {
  "$python" -c "import torch, sys; sys.exit(not torch.cuda.is_available())" 2>/dev/null ||
    { echo "gpu_proof: $python has no torch that sees a GPU; name another in PYTHON, or use dry-run." >&2; exit 2; }
}

build_library() {
  FUSED_LOSSES_CUDA=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} within "$python" setup.py build_ext --inplace && "$python" -m fused_losses.info
}
part_build() {
  say build
  once build "$(library)" build_library
}

# pytest's 5 means that there are none. INT lets it print what it found so far.
tests() {
  timeout -s INT -k 20 "$(left)" "$python" -m pytest -q -rfE --tb=short -p no:cacheprovider "$@"
  local status=$?
  [ $status -eq 5 ] || return $status
}
part_test() {
  say test
  local workers=() failed=0 alone="two_to_the_31 or on_a_gpu"
  "$python" -c "import xdist" 2>/dev/null && workers=(-n "${TEST_JOBS:-4}")
  if [ $# -gt 0 ]; then
    once test-chosen "$(tested) $*" tests "${workers[@]}" "$@"
    return
  fi
  # What fills the memory of a GPU has a process of its own.
  once test-large "$(tested)" tests tests/test_cuda.py tests/test_custom_cuda.py -k "$alone" &
  once test "$(tested)" tests tests "${workers[@]}" -k "cuda and not ($alone)" || failed=1
  wait $! || failed=1
  return $failed
}

# Every loss, variant and dtype, and the sizes around packs, warps, blocks and tiles, in shares side by side.
sanitize_share() {
  local tool=$1 share=$2
  shift 2
  # Without torch's caching allocator every tensor is an allocation of its own, so that an overrun is seen.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 within compute-sanitizer --tool "$tool" --error-exitcode 99 --report-api-errors no \
    --print-limit 20 "$python" tests/device_results.py run --shard "$share" --seconds $(($(left) - 25)) "$@"
}
part_sanitize() {
  say sanitize
  command -v compute-sanitizer >/dev/null || { echo "gpu_proof: no compute-sanitizer on PATH." >&2; return 1; }
  local shares=${SANITIZER_SHARES:-2} tool share name digest names=() failed=0
  digest="$(tested) $shares $*"
  export PYTHONPATH=.
  for tool in ${SANITIZERS:-memcheck racecheck initcheck synccheck}; do
    for share in $(seq "$shares"); do
      while [ "$(jobs -rp | wc -l)" -ge "${SANITIZER_JOBS:-2}" ]; do wait -n; done
      name=$tool-$share
      names+=("$name")
      once "$name" "$digest" sanitize_share "$tool" "$share/$shares" "$@" &
    done
  done
  wait
  for name in "${names[@]}"; do
    [ "$(cat "$proof/notes/$name")" = "passed $digest" ] || failed=1
  done
  return $failed
}

# The results for tests/device_results.py compare, where the emulated device is built.
part_results() {
  say results
  PYTHONPATH=. once results "$(tested)" within "$python" tests/device_results.py run --output "$proof/results.pt"
}

part_roof() {
  say roof
  once roof "$(sources benchmarks/*.py)" within "$python" -m benchmarks.roofs --device cuda
}
part_bench() {
  say bench
  local resume=(--resume)
  [ -z "${FORCE:-}" ] || resume=()
  once bench "$(library) $(sources benchmarks/*.py) $*" within "$python" -m benchmarks.run --device cuda \
    --max-seconds $(($(left) - 60)) "${resume[@]}" "$@"
  local status=$?
  within "$python" -m benchmarks.report
  return $status
}

# Everything to take along, for machines that keep nothing.
pack() {
  [ -n "${OUT:-}" ] || return 0
  tar -czf "$OUT/gpu_proof.tar.gz" "$proof"/*.log "$proof"/*.pt "$proof/notes" benchmarks/results 2>/dev/null
  echo "packed: $OUT/gpu_proof.tar.gz"
}

summary() {
  say summary
  local note name state
  for note in "$proof"/notes/*; do
    [ -e "$note" ] || continue
    name=$(basename "$note")
    state=$(cut -d' ' -f1 "$note")
    printf '%-44s %-8s %s\n' "$name" "$state" \
      "$(grep -hE '(passed|failed|no tests ran|deselected).* in [0-9.]+|calls on |out of time at|ERROR SUMMARY|RACECHECK SUMMARY|^fused_losses .*built' \
        "$proof/$name.log" 2>/dev/null | sed -E 's/^=+ | =+$//g' | tail -n 2 | paste -sd';')"
  done
}

dry_run() {
  local failed=0
  local cuda_python=${FUSED_LOSSES_CUDA_PYTHON:-}
  "$python" -c "import torch" 2>/dev/null || python=$(cat build/environment 2>/dev/null || echo "$python")
  [ -n "$cuda_python" ] || ! "$python" -c "import torch, sys; sys.exit(torch.version.cuda is None)" || cuda_python=$python
  say "dry run with $("$python" -c "import torch, sys; print(sys.executable, torch.__version__)")"
  once dry-script - bash -n "$0" || failed=1
  if command -v nvcc >/dev/null; then
    if [ -n "$cuda_python" ]; then
      FUSED_LOSSES_CUDA_PYTHON=$cuda_python once dry-cuda-build "$(library)" tools/cuda_check.sh || failed=1
    else
      echo "dry-cuda-build: left out, no torch with CUDA (FUSED_LOSSES_CUDA_PYTHON names one)"
    fi
  else
    echo "dry-cuda-build: left out, no nvcc"
  fi
  once dry-library "$(library)" env FUSED_LOSSES_CUDA=0 "$python" setup.py -q build_ext --inplace || failed=1
  once dry-collect "$(tested)" "$python" -m pytest tests -q --collect-only -k cuda -p no:cacheprovider || failed=1
  once dry-cuda-tests-skip "$(tested)" "$python" -m pytest tests/test_cuda.py -q -p no:cacheprovider || failed=1
  once dry-roof "$(sources benchmarks/*.py)" "$python" -m benchmarks.roofs --device cpu --sizes 4096 --seconds 0.1 \
    --append "$proof/dry.csv" || failed=1
  rm -f "$proof/dry.csv"
  once dry-bench "$(library) $(sources benchmarks/*.py)" "$python" -m benchmarks.run --losses mse_loss --sizes 16384 \
    --dtypes float32 --modes hot --rivals fused,eager --seconds 0.2 --no-memory --append "$proof/dry.csv" || failed=1
  return $failed
}

[ "${1:-}" != dry-run ] || limit=86400
part=${1:-help}
[ $# -gt 0 ] && shift
status=0
case $part in
  build | test | results | sanitize | roof | bench)
    need_gpu
    "part_$part" "$@" || status=1
    ;;
  all)
    need_gpu
    part_build || { summary; exit 1; }
    part_test || status=1
    part_results || status=1
    part_sanitize || status=1
    part_roof || status=1
    part_bench || status=1
    ;;
  dry-run) dry_run || status=1 ;;
  summary) ;;
  *)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"
    exit 2
    ;;
esac
summary
[ "$part" = dry-run ] || pack
exit $status

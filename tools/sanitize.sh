#!/usr/bin/env bash
# Builds the CPU library with AddressSanitizer and UndefinedBehaviorSanitizer in build/sanitize and runs the value
# tests against it. Usage: tools/sanitize.sh PYTHON [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
shift
[ $# -gt 0 ] || set -- -q -k values
lib=$PWD/build/sanitize/lib
compiler=${CXX:-g++}

FUSED_LOSSES_SANITIZE=1 "$python" setup.py -q build --build-base build/sanitize --build-lib "$lib"
rm -rf "$lib/tests" && cp -r tests pyproject.toml "$lib/"

# The runtime must come first in the process; libstdc++ beside it, or it cannot intercept exceptions. Leaks are those of
# the interpreter.
export LD_PRELOAD="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
cd "$lib" && exec "$python" -m pytest tests -p no:cacheprovider "$@"

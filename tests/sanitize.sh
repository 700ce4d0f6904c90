#!/usr/bin/env bash
# On a ThreadSanitizer build: the C++ tests of the core, every CUDA kernel in the emulator. On an AddressSanitizer + UBSan
# build: the CUDA kernels again, then the op tests, on the CPU's kernels and the emulated ones. All beside the normal build.
# Most of what runs uses one core, so it runs side by side, and beside the second build; each part's output comes at the end.
#   PYTHON  the interpreter with torch, pytest, cmake, ninja and pybind11 (default: python3)
#   further arguments go to pytest
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
bin=$(cd "$(dirname "$(command -v "$python")")" && pwd)
export PATH="$bin:$PATH"
python="$bin/$(basename "$python")"

logs=$(mktemp -d)
parts=()
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$logs"' EXIT
start() {  # NAME COMMAND...: in the background
  "${@:2}" >"$logs/$1" 2>&1 &
  parts+=("$1:$!")
}
finish() {  # waits for all that was started; fails if one did
  local part failed=0
  for part in "${parts[@]}"; do
    wait "${part##*:}" || { failed=1; printf 'FAILED: '; }
    echo "${part%:*}"
    cat "$logs/${part%:*}"
  done
  return "$failed"
}

planted_faults() {
  LLADA_MOE_OPS_EMULATE_DIR="$build/emulate" "$python" -m pytest tests/emulate/test_planted_faults.py -q -p no:cacheprovider
}

# On the core's own threads: torch's OpenMP pool is not instrumented, and its barriers would pass for races. The CUDA kernels
# in the emulator: each CUDA thread is a thread to TSan, so this is their race detector.
build=$PWD/build/thread
cmake -S . -B "$build" -G Ninja -DLLADA_MOE_OPS_DOORS=OFF -DLLADA_MOE_OPS_CUDA=off -DLLADA_MOE_OPS_EMULATE=ON \
  -DLLADA_MOE_OPS_EMULATE_DIR="$build/emulate" -DLLADA_MOE_OPS_SANITIZE=thread >/dev/null
cmake --build "$build" --target threads_test core_test planted_faults op_kernels
threads() {
  "$build/threads_test"
  "$build/core_test"
  planted_faults
}
export TSAN_OPTIONS=halt_on_error=1
start "TSan, kernels" "$build/emulate/op_kernels" 6
start "TSan, threads" threads

build=$PWD/build/sanitize
cmake -S . -B "$build" -G Ninja -DPython_EXECUTABLE="$python" -DLLADA_MOE_OPS_TESTS=OFF \
  -DLLADA_MOE_OPS_CUDA=off -DLLADA_MOE_OPS_EMULATE=ON -DLLADA_MOE_OPS_EMULATE_DIR="$build/emulate" \
  -DLLADA_MOE_OPS_SANITIZE=address,undefined -DLLADA_MOE_OPS_OUTPUT_DIR="$build/lib" >/dev/null
cmake --build "$build" --target llada_moe_torch _C llada_moe_emulated planted_faults op_kernels
start "ASan, kernels" "$build/emulate/op_kernels" 4
start "ASan, planted faults" planted_faults

compiler=${CXX:-c++}
export LLADA_MOE_OPS_LIBRARY_DIR="$build/lib" LLADA_MOE_OPS_EMULATE_DIR="$build/emulate"
# libstdc++ as well: the sanitizer must find __cxa_throw when it starts, before torch brings it in.
export LD_PRELOAD="$("$compiler" -print-file-name=libasan.so):$("$compiler" -print-file-name=libstdc++.so)"
# torch and Python keep memory to the end on purpose; a signal handler of ours would hide Python's own.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1
export OMP_WAIT_POLICY=PASSIVE
"$python" -c '
from llada_moe_ops.machine import extension
from llada_moe_ops.ops._library import native
assert native() and extension().build_info()["sanitize"], "the normal build was loaded"'
# opcheck and torch.compile trace Python, not kernels; they are slow here and are tested on the normal build. A process of
# its own would load that build.
start "ASan, ops" "$python" -m pytest tests/ops tests/test_roofline.py -q -n 2 --dist worksteal -p no:cacheprovider \
  -k "not opcheck and not compile and not a_process" "$@"
unset LD_PRELOAD
finish

// How tests set the emulator up, through ctypes, and let an op report an error; nothing of it is in the package's
// library.
#ifdef LLADA_EMULATE

#include "emulate/host_api.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "binding/torch/cuda/door.h"
#include "cuda/select_path.h"

extern "C" __attribute__((visibility("default"))) void llada_emulate_configure(std::uint64_t seed,
                                                                               unsigned resident_blocks,
                                                                               int multiprocessors) {
  llada::emulate::settings() = {seed, resident_blocks, multiprocessors};
}

extern "C" __attribute__((visibility("default"))) std::uint64_t llada_emulate_launches() {
  return llada::emulate::launches();
}

// Which kernels have run, by numbers that are the same in every process: how many, of which the first `capacity` are
// written.
extern "C" __attribute__((visibility("default"))) std::size_t llada_emulate_kernels(std::int64_t* numbers,
                                                                                    std::size_t capacity) {
  const std::vector<const void*> kernels = llada::emulate::kernels_run();
  const auto anchor = reinterpret_cast<std::intptr_t>(&llada_emulate_configure);
  for (std::size_t i = 0; i < std::min(capacity, kernels.size()); ++i) {
    numbers[i] = reinterpret_cast<std::intptr_t>(kernels[i]) - anchor;
  }
  return kernels.size();
}

// A kernel that has been launched fails: the next wait for the stream says so.
extern "C" __attribute__((visibility("default"))) void llada_emulate_late_error(int code) {
  llada::emulate::late_error() = code;
}

extern "C" __attribute__((visibility("default"))) const char* llada_emulate_path() {
  return llada::cuda_path_name(llada::cuda::active_path({}));
}

namespace {

void report(llada::Tensor like, std::int64_t code) {
  const llada::CudaCall call(like);
  llada::cuda::report("report", static_cast<int>(code), call.stream());
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(llada_moe_emulated, m) { m.def("report(Tensor like, int code) -> ()"); }
STABLE_TORCH_LIBRARY_IMPL(llada_moe_emulated, CPU, m) { m.impl("report", TORCH_BOX(&report)); }

#endif

// How tests set the emulator up, through ctypes, and let an op report an error; nothing of it is in the package's
// library.
#ifdef LLADA_EMULATE

#include "emulate/scheduler.h"

#include <cstdint>

#include "binding/torch/cuda/door.h"
#include "cuda/select_path.h"

extern "C" __attribute__((visibility("default"))) void llada_emulate_configure(std::uint64_t seed,
                                                                               unsigned resident_blocks,
                                                                               int multiprocessors) {
  llada::emulate::settings() = {seed, resident_blocks, multiprocessors};
}

extern "C" __attribute__((visibility("default"))) void llada_emulate_counts(std::uint64_t* kernels,
                                                                            std::uint64_t* launches) {
  const llada::emulate::Counts counts = llada::emulate::counts();
  *kernels = counts.kernels;
  *launches = counts.launches;
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

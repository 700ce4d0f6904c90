// What the CUDA doors share. Each is compiled twice: into the package's library, for CUDA tensors on the current
// stream, and with LLADA_EMULATE into the tests' library, where the same kernels run on CPU tensors as
// llada_moe_emulated.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "binding/torch/views.h"
#include "cuda/launch_report.h"

namespace llada {

// The device and stream of one call: those of `like`, for as long as this lives.
class CudaCall {
 public:
  explicit CudaCall(const Tensor& like);
  const cuda::Stream& stream() const { return stream_; }

 private:
#ifndef LLADA_EMULATE
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  cuda::Stream stream_;
};

}  // namespace llada

// LLADA_CUDA_OPS(schemas::kX, m) { m.impl("x", TORCH_BOX(&x)); }
#ifdef LLADA_EMULATE
#define LLADA_CUDA_OPS(schemas_of_the_ops, library)                             \
  STABLE_TORCH_LIBRARY_FRAGMENT(llada_moe_emulated, library) {                  \
    for (const char* schema : ::llada::schemas_of_the_ops) library.def(schema); \
  }                                                                             \
  STABLE_TORCH_LIBRARY_IMPL(llada_moe_emulated, CPU, library)
#else
#define LLADA_CUDA_OPS(schemas_of_the_ops, library) STABLE_TORCH_LIBRARY_IMPL(llada_moe, CUDA, library)
#endif

#include "grouped_gemm/grouped_gemm.h"

#include "binding/torch/cuda/door.h"
#include "binding/torch/schemas.h"
#include "grouped_gemm/grouped_gemm_cuda.h"

namespace {

using llada::Tensor;
using llada::view;

Tensor grouped_gemm(Tensor x_sorted, Tensor weight, Tensor offsets) {
  STD_TORCH_CHECK(x_sorted.dim() == 2, "grouped_gemm: x_sorted must have shape [A, K]");
  STD_TORCH_CHECK(weight.dim() == 3, "grouped_gemm: weight must have shape [E, N, K]");
  const llada::CudaCall call(x_sorted);
  Tensor y = llada::new_tensor(x_sorted, {x_sorted.size(0), weight.size(1)});
  llada::cuda::grouped_gemm({view(x_sorted), view(weight), false, view(offsets), view(y)}, call.stream());
  return y;
}

Tensor grouped_swiglu(Tensor x_sorted, Tensor gate_up_proj, Tensor offsets) {
  STD_TORCH_CHECK(x_sorted.dim() == 2, "grouped_swiglu: x_sorted must have shape [A, H]");
  STD_TORCH_CHECK(gate_up_proj.dim() == 3, "grouped_swiglu: gate_up_proj must have shape [E, 2I, H]");
  const llada::CudaCall call(x_sorted);
  Tensor y = llada::new_tensor(x_sorted, {x_sorted.size(0), gate_up_proj.size(1) / 2});
  llada::cuda::grouped_swiglu({view(x_sorted), view(gate_up_proj), false, view(offsets), view(y)}, call.stream());
  return y;
}

}  // namespace

LLADA_CUDA_OPS(schemas::kGroupedGemm, m) {
  m.impl("grouped_gemm", TORCH_BOX(&grouped_gemm));
  m.impl("grouped_swiglu", TORCH_BOX(&grouped_swiglu));
}

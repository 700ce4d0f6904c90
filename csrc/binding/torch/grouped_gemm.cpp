#include "grouped_gemm/grouped_gemm.h"

#include "binding/torch/views.h"

namespace {

using llada::Tensor;

Tensor grouped_gemm(Tensor x_sorted, Tensor weight, Tensor offsets) {
  STD_TORCH_CHECK(x_sorted.dim() == 2 && weight.dim() == 3,
                  "grouped_gemm: expected x_sorted [A, K] and weight [E, N, K]");
  Tensor y = llada::new_tensor(x_sorted, {x_sorted.size(0), weight.size(1)});
  llada::grouped_gemm({llada::view(x_sorted), llada::view(weight), llada::view(offsets), llada::view(y)});
  return y;
}

Tensor grouped_swiglu(Tensor x_sorted, Tensor gate_up_proj, Tensor offsets) {
  STD_TORCH_CHECK(x_sorted.dim() == 2 && gate_up_proj.dim() == 3,
                  "grouped_swiglu: expected x_sorted [A, H] and gate_up_proj [E, 2I, H]");
  Tensor y = llada::new_tensor(x_sorted, {x_sorted.size(0), gate_up_proj.size(1) / 2});
  llada::grouped_swiglu({llada::view(x_sorted), llada::view(gate_up_proj), llada::view(offsets), llada::view(y)});
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(llada_moe, m) {
  m.def("grouped_gemm(Tensor x_sorted, Tensor weight, Tensor offsets) -> Tensor");
  m.def("grouped_swiglu(Tensor x_sorted, Tensor gate_up_proj, Tensor offsets) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(llada_moe, CPU, m) {
  m.impl("grouped_gemm", TORCH_BOX(&grouped_gemm));
  m.impl("grouped_swiglu", TORCH_BOX(&grouped_swiglu));
}

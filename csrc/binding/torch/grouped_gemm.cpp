#include "grouped_gemm/grouped_gemm.h"

#include "binding/torch/schemas.h"
#include "binding/torch/views.h"

namespace {

using llada::Tensor;
using llada::view;

Tensor new_rows(const Tensor& x_sorted, std::int64_t columns) {
  STD_TORCH_CHECK(x_sorted.dim() == 2, "grouped_gemm or grouped_swiglu: x_sorted must have shape [A, K]");
  STD_TORCH_CHECK(columns >= 0, "grouped_gemm or grouped_swiglu: the output's size must not be negative");
  return llada::new_tensor(x_sorted, {x_sorted.size(0), columns});
}

Tensor grouped_gemm(Tensor x_sorted, Tensor weight, Tensor offsets) {
  STD_TORCH_CHECK(weight.dim() == 3, "grouped_gemm: weight must have shape [E, N, K]");
  Tensor y = new_rows(x_sorted, weight.size(1));
  llada::grouped_gemm({view(x_sorted), view(weight), false, view(offsets), view(y)});
  return y;
}

Tensor grouped_gemm_packed(Tensor x_sorted, Tensor packed, std::int64_t out_features, Tensor offsets) {
  Tensor y = new_rows(x_sorted, out_features);
  llada::grouped_gemm({view(x_sorted), view(packed), true, view(offsets), view(y)});
  return y;
}

Tensor grouped_swiglu(Tensor x_sorted, Tensor gate_up_proj, Tensor offsets) {
  STD_TORCH_CHECK(gate_up_proj.dim() == 3, "grouped_swiglu: gate_up_proj must have shape [E, 2I, H]");
  Tensor y = new_rows(x_sorted, gate_up_proj.size(1) / 2);
  llada::grouped_swiglu({view(x_sorted), view(gate_up_proj), false, view(offsets), view(y)});
  return y;
}

Tensor grouped_swiglu_packed(Tensor x_sorted, Tensor gate_up, std::int64_t intermediate_size, Tensor offsets) {
  Tensor y = new_rows(x_sorted, intermediate_size);
  llada::grouped_swiglu({view(x_sorted), view(gate_up), true, view(offsets), view(y)});
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(llada_moe, m) {
  for (const char* schema : llada::schemas::kGroupedGemm) m.def(schema);
  m.def("grouped_gemm_packed(Tensor x_sorted, Tensor packed, int out_features, Tensor offsets) -> Tensor");
  m.def("grouped_swiglu_packed(Tensor x_sorted, Tensor gate_up, int intermediate_size, Tensor offsets) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(llada_moe, CPU, m) {
  m.impl("grouped_gemm", TORCH_BOX(&grouped_gemm));
  m.impl("grouped_gemm_packed", TORCH_BOX(&grouped_gemm_packed));
  m.impl("grouped_swiglu", TORCH_BOX(&grouped_swiglu));
  m.impl("grouped_swiglu_packed", TORCH_BOX(&grouped_swiglu_packed));
}

#include "moe_mlp/moe_mlp.h"

#include "binding/torch/schemas.h"
#include "binding/torch/views.h"

namespace {

using llada::Tensor;
using llada::view;

Tensor run(const Tensor& x, const Tensor& weights, const Tensor& experts, const Tensor& gate_up, const Tensor& down,
           std::int64_t intermediate, bool packed) {
  const auto sizes = x.sizes();
  Tensor y = llada::new_tensor(x, {sizes.begin(), sizes.end()});
  llada::moe_mlp({view(x), view(weights), view(experts), view(gate_up), view(down), packed, intermediate, view(y)});
  return y;
}

Tensor moe_mlp(Tensor x, Tensor weights, Tensor experts, Tensor gate_up_proj, Tensor down_proj) {
  STD_TORCH_CHECK(down_proj.dim() == 3, "moe_mlp: down_proj must have shape [E, H, I]");
  return run(x, weights, experts, gate_up_proj, down_proj, down_proj.size(2), false);
}

Tensor moe_mlp_packed(Tensor x, Tensor weights, Tensor experts, Tensor gate_up, Tensor down,
                      std::int64_t intermediate_size) {
  return run(x, weights, experts, gate_up, down, intermediate_size, true);
}

void pack_expert(Tensor gate, Tensor up, Tensor down, Tensor gate_up_packed, Tensor down_packed) {
  llada::pack_expert({view(gate), view(up), view(down), view(gate_up_packed), view(down_packed)});
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(llada_moe, m) {
  for (const char* schema : llada::schemas::kMoeMlp) m.def(schema);
  m.def(
      "moe_mlp_packed(Tensor x, Tensor weights, Tensor experts, Tensor gate_up, Tensor down, int intermediate_size)"
      " -> Tensor");
  m.def("pack_expert(Tensor gate, Tensor up, Tensor down, Tensor(a!) gate_up_packed, Tensor(b!) down_packed) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(llada_moe, CPU, m) {
  m.impl("moe_mlp", TORCH_BOX(&moe_mlp));
  m.impl("moe_mlp_packed", TORCH_BOX(&moe_mlp_packed));
  m.impl("pack_expert", TORCH_BOX(&pack_expert));
}

#include "permute/permute.h"

#include <tuple>

#include "binding/torch/schemas.h"
#include "binding/torch/views.h"

namespace {

using llada::ScalarType;
using llada::Tensor;

std::tuple<Tensor, Tensor> expert_order(Tensor experts, std::int64_t num_experts) {
  STD_TORCH_CHECK(num_experts >= 1 && num_experts <= (1 << 24), "expert_order: num_experts must be within 1 and 2^24");
  Tensor order = llada::new_tensor(experts, {experts.numel()}, ScalarType::Int);
  Tensor offsets = llada::new_tensor(experts, {num_experts + 1}, ScalarType::Int);
  llada::expert_order({llada::view(experts), num_experts, llada::view(order), llada::view(offsets)});
  return {order, offsets};
}

Tensor permute(Tensor x, Tensor order, std::int64_t k) {
  STD_TORCH_CHECK(x.dim() == 2, "permute: x must have shape [T, H]");
  Tensor out = llada::new_tensor(x, {order.numel(), x.size(1)});
  llada::permute({llada::view(x), llada::view(order), k, llada::view(out)});
  return out;
}

Tensor unpermute(Tensor y_sorted, Tensor order, Tensor weights) {
  STD_TORCH_CHECK(y_sorted.dim() == 2 && weights.dim() == 2, "unpermute: expected y_sorted [A, H] and weights [T, k]");
  Tensor out = llada::new_tensor(y_sorted, {weights.size(0), y_sorted.size(1)});
  llada::unpermute({llada::view(y_sorted), llada::view(order), llada::view(weights), llada::view(out)});
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(llada_moe, m) {
  for (const char* schema : llada::schemas::kPermute) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(llada_moe, CPU, m) {
  m.impl("expert_order", TORCH_BOX(&expert_order));
  m.impl("permute", TORCH_BOX(&permute));
  m.impl("unpermute", TORCH_BOX(&unpermute));
}

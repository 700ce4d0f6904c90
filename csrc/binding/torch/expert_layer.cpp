#include "expert_layer/expert_layer.h"

#include <tuple>

#include "binding/torch/views.h"

namespace {

using llada::Tensor;
using llada::view;

std::tuple<Tensor, Tensor> expert_layer(Tensor update, Tensor residual, Tensor norm_weight, double eps,
                                        Tensor gate_weight, std::optional<Tensor> expert_bias, std::int64_t k,
                                        bool renormalize, double scale, Tensor gate_up, Tensor down,
                                        std::int64_t intermediate_size) {
  const auto sizes = update.sizes();
  Tensor out = llada::new_tensor(update, {sizes.begin(), sizes.end()});
  Tensor total = llada::new_tensor(update, {sizes.begin(), sizes.end()});
  llada::expert_layer({view(update), view(residual), view(norm_weight), eps, view(gate_weight), view(expert_bias), k,
                       renormalize, scale, view(gate_up), view(down), intermediate_size, view(out), view(total)});
  return {out, total};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(llada_moe, m) {
  m.def(
      "expert_layer(Tensor update, Tensor residual, Tensor norm_weight, float eps, Tensor gate_weight, "
      "Tensor? expert_bias, int k, bool renormalize, float scale, Tensor gate_up, Tensor down, int intermediate_size) "
      "-> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(llada_moe, CPU, m) { m.impl("expert_layer", TORCH_BOX(&expert_layer)); }

#include "attention_layer/attention_layer.h"

#include <tuple>

#include "binding/torch/views.h"

namespace {

using llada::Tensor;
using llada::view;

std::tuple<Tensor, Tensor> attention_layer(std::optional<Tensor> update, Tensor residual, Tensor norm_weight,
                                           double eps, Tensor qkv_weight, std::optional<Tensor> qkv_bias,
                                           Tensor out_weight, std::optional<Tensor> out_bias, std::int64_t heads,
                                           std::int64_t key_heads, std::int64_t head_size,
                                           std::optional<Tensor> q_weight, std::optional<Tensor> k_weight,
                                           Tensor positions, Tensor frequencies, std::optional<Tensor> cache,
                                           std::optional<Tensor> key_range) {
  const auto sizes = residual.sizes();
  Tensor out = llada::new_tensor(residual, {sizes.begin(), sizes.end()});
  // Without an update the stream is the residual, which a result may not alias.
  Tensor total = llada::new_tensor(
      residual, update ? std::vector<std::int64_t>{sizes.begin(), sizes.end()} : std::vector<std::int64_t>{0});
  llada::attention_layer({view(update), view(residual), view(norm_weight), eps, view(qkv_weight), view(qkv_bias),
                          view(out_weight), view(out_bias), heads, key_heads, head_size, view(q_weight), view(k_weight),
                          view(positions), view(frequencies), view(cache), view(key_range), view(out), view(total)});
  return {out, total};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(llada_moe, m) {
  m.def(
      "attention_layer(Tensor? update, Tensor residual, Tensor norm_weight, float eps, Tensor qkv_weight, "
      "Tensor? qkv_bias, Tensor out_weight, Tensor? out_bias, int heads, int key_heads, int head_size, "
      "Tensor? q_weight, Tensor? k_weight, Tensor positions, Tensor frequencies, Tensor(a!)? cache, "
      "Tensor? key_range) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(llada_moe, CPU, m) { m.impl("attention_layer", TORCH_BOX(&attention_layer)); }

#include "attention/attention.h"

#include "binding/torch/schemas.h"
#include "binding/torch/views.h"

namespace {

using llada::Tensor;

Tensor attention(Tensor q, Tensor k, Tensor v, std::optional<Tensor> mask, std::optional<Tensor> key_range,
                 std::optional<Tensor> cu_seqlens, std::int64_t block_size, std::optional<double> scale) {
  const auto sizes = q.sizes();
  Tensor out = llada::new_tensor(q, {sizes.begin(), sizes.end()});
  llada::attention({llada::view(q), llada::view(k), llada::view(v), llada::view(mask), llada::view(key_range),
                    llada::view(cu_seqlens), block_size, scale, llada::view(out)});
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(llada_moe, m) {
  for (const char* schema : llada::schemas::kAttention) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(llada_moe, CPU, m) { m.impl("attention", TORCH_BOX(&attention)); }

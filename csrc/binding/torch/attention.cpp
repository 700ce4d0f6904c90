#include "attention/attention.h"

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
  m.def(
      "attention(Tensor q, Tensor k, Tensor v, Tensor? mask=None, Tensor? key_range=None, Tensor? cu_seqlens=None, "
      "int block_size=0, float? scale=None) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(llada_moe, CPU, m) { m.impl("attention", TORCH_BOX(&attention)); }

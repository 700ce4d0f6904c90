#include "attention/attention.h"

#include "attention/attention_cuda.h"
#include "binding/torch/cuda/door.h"
#include "binding/torch/schemas.h"

namespace {

using llada::ScalarType;
using llada::Tensor;
using llada::view;

Tensor attention(Tensor q, Tensor k, Tensor v, std::optional<Tensor> mask, std::optional<Tensor> key_range,
                 std::optional<Tensor> cu_seqlens, std::int64_t block_size, std::optional<double> scale) {
  STD_TORCH_CHECK(q.dim() == 4 && k.dim() == 4, "attention: q and k must have four dimensions");
  const llada::CudaCall call(q);
  const auto sizes = q.sizes();
  Tensor out = llada::new_tensor(q, {sizes.begin(), sizes.end()});
  const llada::AttentionArgs args{view(q),          view(k),    view(v), view(mask), view(key_range),
                                  view(cu_seqlens), block_size, scale,   view(out)};
  Tensor workspace = llada::new_tensor(q, {llada::cuda::attention_workspace(args)}, ScalarType::Float);
  llada::cuda::attention(args, view(workspace), call.stream());
  return out;
}

}  // namespace

LLADA_CUDA_OPS(schemas::kAttention, m) { m.impl("attention", TORCH_BOX(&attention)); }

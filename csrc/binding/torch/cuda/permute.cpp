#include "permute/permute.h"

#include <tuple>

#include "binding/torch/cuda/door.h"
#include "binding/torch/schemas.h"
#include "permute/permute_cuda.h"

namespace {

using llada::ScalarType;
using llada::Tensor;
using llada::view;

std::tuple<Tensor, Tensor> expert_order(Tensor experts, std::int64_t num_experts) {
  STD_TORCH_CHECK(num_experts >= 1 && num_experts <= llada::cuda::kMaxSortedExperts,
                  "expert_order: num_experts must be within 1 and ", llada::cuda::kMaxSortedExperts, " on a GPU, got ",
                  num_experts);
  const llada::CudaCall call(experts);
  Tensor order = llada::new_tensor(experts, {experts.numel()}, ScalarType::Int);
  Tensor offsets = llada::new_tensor(experts, {num_experts + 1}, ScalarType::Int);
  llada::cuda::expert_order({view(experts), num_experts, view(order), view(offsets)}, call.stream());
  return {order, offsets};
}

Tensor permute(Tensor x, Tensor order, std::int64_t k) {
  STD_TORCH_CHECK(x.dim() == 2, "permute: x must have shape [T, H]");
  const llada::CudaCall call(x);
  Tensor out = llada::new_tensor(x, {order.numel(), x.size(1)});
  llada::cuda::permute({view(x), view(order), k, view(out)}, call.stream());
  return out;
}

Tensor unpermute(Tensor y_sorted, Tensor order, Tensor weights) {
  STD_TORCH_CHECK(y_sorted.dim() == 2 && weights.dim() == 2, "unpermute: expected y_sorted [A, H] and weights [T, k]");
  const llada::CudaCall call(y_sorted);
  Tensor out = llada::new_tensor(y_sorted, {weights.size(0), y_sorted.size(1)});
  Tensor workspace = llada::new_tensor(y_sorted, {weights.numel()}, ScalarType::Int);
  llada::cuda::unpermute({view(y_sorted), view(order), view(weights), view(out)}, view(workspace), call.stream());
  return out;
}

}  // namespace

LLADA_CUDA_OPS(schemas::kPermute, m) {
  m.impl("expert_order", TORCH_BOX(&expert_order));
  m.impl("permute", TORCH_BOX(&permute));
  m.impl("unpermute", TORCH_BOX(&unpermute));
}

#include "router_topk/router_topk.h"

#include <tuple>

#include "binding/torch/cuda/door.h"
#include "binding/torch/schemas.h"
#include "router_topk/router_topk_cuda.h"

namespace {

using llada::ScalarType;
using llada::Tensor;
using llada::view;

std::tuple<Tensor, Tensor> router_topk(Tensor logits, std::int64_t k, bool sigmoid, std::optional<Tensor> bias,
                                       bool bias_in_weights, std::int64_t num_groups, std::int64_t topk_groups,
                                       bool renormalize, double scale) {
  STD_TORCH_CHECK(logits.dim() == 2 && k >= 0, "router_topk: expected a matrix and a k of at least 1");
  const llada::CudaCall call(logits);
  Tensor weights = llada::new_tensor(logits, {logits.size(0), k}, ScalarType::Float);
  Tensor experts = llada::new_tensor(logits, {logits.size(0), k}, ScalarType::Int);
  llada::cuda::router_topk(
      {view(logits), k, sigmoid ? llada::RouterScore::kSigmoid : llada::RouterScore::kSoftmax, view(bias),
       bias_in_weights, num_groups, topk_groups, renormalize, scale, view(weights), view(experts)},
      call.stream());
  return {weights, experts};
}

std::tuple<Tensor, Tensor> router(Tensor x, Tensor gate_weight, std::int64_t k, bool sigmoid,
                                  std::optional<Tensor> bias, bool bias_in_weights, std::int64_t num_groups,
                                  std::int64_t topk_groups, bool renormalize, double scale) {
  STD_TORCH_CHECK(x.dim() == 2 && k >= 0, "router: expected a matrix and a k of at least 1");
  STD_TORCH_CHECK(gate_weight.dim() == 2, "router: gate_weight must have shape [E, H]");
  const llada::CudaCall call(x);
  Tensor weights = llada::new_tensor(x, {x.size(0), k}, ScalarType::Float);
  Tensor experts = llada::new_tensor(x, {x.size(0), k}, ScalarType::Int);
  Tensor logits = llada::new_tensor(x, {x.size(0), llada::cuda::router_logits(gate_weight.size(0))});
  const llada::RouterTopkArgs choice{{},
                                     k,
                                     sigmoid ? llada::RouterScore::kSigmoid : llada::RouterScore::kSoftmax,
                                     view(bias),
                                     bias_in_weights,
                                     num_groups,
                                     topk_groups,
                                     renormalize,
                                     scale,
                                     view(weights),
                                     view(experts)};
  llada::cuda::router({view(x), view(gate_weight), choice}, view(logits), call.stream());
  return {weights, experts};
}

}  // namespace

LLADA_CUDA_OPS(schemas::kRouterTopk, m) {
  m.impl("router_topk", TORCH_BOX(&router_topk));
  m.impl("router", TORCH_BOX(&router));
}

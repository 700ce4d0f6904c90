#include "router_topk/router_topk.h"

#include <tuple>

#include "binding/torch/schemas.h"
#include "binding/torch/views.h"

namespace {

using llada::RouterScore;
using llada::RouterTopkArgs;
using llada::ScalarType;
using llada::Tensor;

struct Result {
  Tensor weights, experts;
};

// `like` gives the device and T; the checks of sizes are the core's.
Result new_result(const Tensor& like, std::int64_t k) {
  STD_TORCH_CHECK(like.dim() == 2 && k >= 0, "router_topk: expected a matrix and a k of at least 1");
  return {llada::new_tensor(like, {like.size(0), k}, ScalarType::Float),
          llada::new_tensor(like, {like.size(0), k}, ScalarType::Int)};
}

std::tuple<Tensor, Tensor> router_topk(Tensor logits, std::int64_t k, bool sigmoid, std::optional<Tensor> bias,
                                       bool bias_in_weights, std::int64_t num_groups, std::int64_t topk_groups,
                                       bool renormalize, double scale) {
  const Result result = new_result(logits, k);
  llada::router_topk({llada::view(logits), k, sigmoid ? RouterScore::kSigmoid : RouterScore::kSoftmax,
                      llada::view(bias), bias_in_weights, num_groups, topk_groups, renormalize, scale,
                      llada::view(result.weights), llada::view(result.experts)});
  return {result.weights, result.experts};
}

std::tuple<Tensor, Tensor> router(Tensor x, Tensor gate_weight, std::int64_t k, bool sigmoid,
                                  std::optional<Tensor> bias, bool bias_in_weights, std::int64_t num_groups,
                                  std::int64_t topk_groups, bool renormalize, double scale) {
  const Result result = new_result(x, k);
  const RouterTopkArgs topk{{},
                            k,
                            sigmoid ? RouterScore::kSigmoid : RouterScore::kSoftmax,
                            llada::view(bias),
                            bias_in_weights,
                            num_groups,
                            topk_groups,
                            renormalize,
                            scale,
                            llada::view(result.weights),
                            llada::view(result.experts)};
  llada::router({llada::view(x), llada::view(gate_weight), topk});
  return {result.weights, result.experts};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(llada_moe, m) {
  for (const char* schema : llada::schemas::kRouterTopk) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(llada_moe, CPU, m) {
  m.impl("router_topk", TORCH_BOX(&router_topk));
  m.impl("router", TORCH_BOX(&router));
}

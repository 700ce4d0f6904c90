#include "token_confidence/token_confidence.h"

#include <tuple>

#include "binding/torch/schemas.h"
#include "binding/torch/views.h"

namespace {

using llada::ScalarType;
using llada::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> token_confidence(
    Tensor hidden, Tensor weight, bool packed, std::int64_t vocabulary, double temperature, std::int64_t seed,
    std::optional<Tensor> noise_keys, std::optional<Tensor> forbidden, std::int64_t mask_token) {
  STD_TORCH_CHECK(hidden.dim() == 2, "token_confidence: hidden must have shape [R, H]");
  const std::vector<std::int64_t> rows{hidden.size(0)};
  Tensor token = llada::new_tensor(hidden, rows, ScalarType::Int);
  Tensor runner_up = llada::new_tensor(hidden, rows, ScalarType::Int);
  Tensor logprob = llada::new_tensor(hidden, rows, ScalarType::Float);
  Tensor runner_up_logprob = llada::new_tensor(hidden, rows, ScalarType::Float);
  Tensor entropy = llada::new_tensor(hidden, rows, ScalarType::Float);
  Tensor logsumexp = llada::new_tensor(hidden, rows, ScalarType::Float);
  llada::token_confidence({llada::view(hidden), llada::view(weight), packed, vocabulary, temperature, seed,
                           llada::view(noise_keys), llada::view(forbidden), mask_token, llada::view(token),
                           llada::view(logprob), llada::view(runner_up), llada::view(runner_up_logprob),
                           llada::view(entropy), llada::view(logsumexp)});
  return {token, logprob, runner_up, runner_up_logprob, entropy, logsumexp};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(llada_moe, m) {
  for (const char* schema : llada::schemas::kTokenConfidence) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(llada_moe, CPU, m) { m.impl("token_confidence", TORCH_BOX(&token_confidence)); }

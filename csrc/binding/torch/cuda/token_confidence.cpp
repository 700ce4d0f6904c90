#include "token_confidence/token_confidence.h"

#include <tuple>

#include "binding/torch/cuda/door.h"
#include "binding/torch/schemas.h"
#include "token_confidence/token_confidence_cuda.h"

namespace {

using llada::ScalarType;
using llada::Tensor;
using llada::view;

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> token_confidence(
    Tensor hidden, Tensor weight, bool packed, std::int64_t vocabulary, double temperature, std::int64_t seed,
    std::optional<Tensor> noise_keys, std::optional<Tensor> forbidden, std::int64_t mask_token) {
  STD_TORCH_CHECK(hidden.dim() == 2, "token_confidence: hidden must have shape [R, H]");
  const llada::CudaCall call(hidden);
  const std::vector<std::int64_t> rows{hidden.size(0)};
  Tensor token = llada::new_tensor(hidden, rows, ScalarType::Int);
  Tensor runner_up = llada::new_tensor(hidden, rows, ScalarType::Int);
  Tensor logprob = llada::new_tensor(hidden, rows, ScalarType::Float);
  Tensor runner_up_logprob = llada::new_tensor(hidden, rows, ScalarType::Float);
  Tensor entropy = llada::new_tensor(hidden, rows, ScalarType::Float);
  Tensor logsumexp = llada::new_tensor(hidden, rows, ScalarType::Float);
  const llada::TokenConfidenceArgs args{view(hidden),
                                        view(weight),
                                        packed,
                                        vocabulary,
                                        temperature,
                                        seed,
                                        view(noise_keys),
                                        view(forbidden),
                                        mask_token,
                                        view(token),
                                        view(logprob),
                                        view(runner_up),
                                        view(runner_up_logprob),
                                        view(entropy),
                                        view(logsumexp)};
  const std::int64_t room = vocabulary >= 1 ? llada::cuda::token_confidence_workspace(args) : 0;
  Tensor workspace = llada::new_tensor(hidden, {room}, ScalarType::Float);
  llada::cuda::token_confidence(args, view(workspace), call.stream());
  return {token, logprob, runner_up, runner_up_logprob, entropy, logsumexp};
}

}  // namespace

LLADA_CUDA_OPS(schemas::kTokenConfidence, m) { m.impl("token_confidence", TORCH_BOX(&token_confidence)); }

// The doors of token_confidence: what they take, allocate and return.
#pragma once

#include <optional>
#include <tuple>

#include "binding/torch/views.h"
#include "token_confidence/token_confidence.h"

namespace llada {

using TokenConfidenceTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// The schema's function; run(args, hidden) is the core's on one kind of device.
template <auto kRun>
TokenConfidenceTensors token_confidence_door(Tensor hidden, Tensor weight, bool packed, std::int64_t vocabulary,
                                             double temperature, std::int64_t seed, std::optional<Tensor> noise_keys,
                                             std::optional<Tensor> forbidden, std::int64_t mask_token,
                                             std::optional<Tensor> temperatures, std::optional<Tensor> bias_tokens,
                                             std::optional<Tensor> bias_values, std::int64_t top_k, double top_p) {
  STD_TORCH_CHECK(hidden.dim() == 2, "token_confidence: hidden must have shape [R, H]");
  const auto of_rows = [&](ScalarType type) { return new_tensor(hidden, {hidden.size(0)}, type); };
  Tensor token = of_rows(ScalarType::Int), runner_up = of_rows(ScalarType::Int);
  Tensor logprob = of_rows(ScalarType::Float), runner_up_logprob = of_rows(ScalarType::Float);
  Tensor entropy = of_rows(ScalarType::Float), logsumexp = of_rows(ScalarType::Float);
  const TokenConfidenceArgs args{.hidden = view(hidden),
                                 .weight = view(weight),
                                 .packed = packed,
                                 .vocabulary = vocabulary,
                                 .temperature = temperature,
                                 .temperatures = view(temperatures),
                                 .seed = seed,
                                 .noise_keys = view(noise_keys),
                                 .forbidden = view(forbidden),
                                 .mask_token = mask_token,
                                 .bias_tokens = view(bias_tokens),
                                 .bias_values = view(bias_values),
                                 .top_k = top_k,
                                 .top_p = top_p,
                                 .token = view(token),
                                 .logprob = view(logprob),
                                 .runner_up = view(runner_up),
                                 .runner_up_logprob = view(runner_up_logprob),
                                 .entropy = view(entropy),
                                 .logsumexp = view(logsumexp)};
  kRun(args, hidden);
  return {token, logprob, runner_up, runner_up_logprob, entropy, logsumexp};
}

}  // namespace llada

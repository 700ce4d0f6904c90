// What both doors of token_confidence allocate and return.
#pragma once

#include <optional>
#include <tuple>

#include "binding/torch/views.h"
#include "token_confidence/token_confidence.h"

namespace llada {

using TokenConfidenceTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

class TokenConfidenceOutputs {
 public:
  explicit TokenConfidenceOutputs(const Tensor& hidden)
      : token_(of_rows(hidden, ScalarType::Int)),
        runner_up_(of_rows(hidden, ScalarType::Int)),
        logprob_(of_rows(hidden, ScalarType::Float)),
        runner_up_logprob_(of_rows(hidden, ScalarType::Float)),
        entropy_(of_rows(hidden, ScalarType::Float)),
        logsumexp_(of_rows(hidden, ScalarType::Float)) {}

  // The op's arguments, which write here.
  TokenConfidenceArgs args(const Tensor& hidden, const Tensor& weight, bool packed, std::int64_t vocabulary,
                           double temperature, std::int64_t seed, const std::optional<Tensor>& noise_keys,
                           const std::optional<Tensor>& forbidden, std::int64_t mask_token) const {
    return {view(hidden),
            view(weight),
            packed,
            vocabulary,
            temperature,
            seed,
            view(noise_keys),
            view(forbidden),
            mask_token,
            view(token_),
            view(logprob_),
            view(runner_up_),
            view(runner_up_logprob_),
            view(entropy_),
            view(logsumexp_)};
  }

  TokenConfidenceTensors tensors() const {
    return {token_, logprob_, runner_up_, runner_up_logprob_, entropy_, logsumexp_};
  }

 private:
  static Tensor of_rows(const Tensor& hidden, ScalarType type) {
    STD_TORCH_CHECK(hidden.dim() == 2, "token_confidence: hidden must have shape [R, H]");
    return new_tensor(hidden, {hidden.size(0)}, type);
  }

  Tensor token_, runner_up_, logprob_, runner_up_logprob_, entropy_, logsumexp_;
};

}  // namespace llada

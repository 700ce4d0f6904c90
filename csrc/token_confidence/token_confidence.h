// The head and what the sampler asks of it, without the [R, V] logits: per row the chosen token, its log-probability,
// the runner-up, the entropy and the log-sum-exp.
#pragma once

#include <cstdint>

#include "common/array_view.h"
#include "common/check.h"

namespace llada {

struct TokenConfidenceArgs {
  ArrayView hidden;  // [R, H] fp32 or bf16 (or fp16 on a GPU), rows contiguous
  ArrayView weight;  // [V, H], rows contiguous, or V rows packed (cpu/panel_weights.h)
  bool packed = false;
  std::int64_t vocabulary = 0;   // V
  double temperature = 0.0;      // > 0: the token is the argmax of logit + temperature * Gumbel noise
  ArrayView temperatures;        // optional fp32 or fp64 [R], each row's own in place of temperature
  std::int64_t seed = 0;         // of the noise
  ArrayView noise_keys;          // optional int64 [R], which stream of noise a row draws from; default 0, 1, 2, ...
  ArrayView forbidden;           // optional int32 or int64 [F]: never chosen, and absent from the distribution
  std::int64_t mask_token = -1;  // >= 0: never chosen, but part of the distribution
  ArrayView bias_tokens;         // optional int64 [R, S]: to these tokens' logits is added
  ArrayView bias_values;         // fp32 [R, S]; a token's own are added in order
  std::int64_t top_k = 0;        // > 0: noise may choose the so many most probable tokens, of equal ones the lower
  double top_p = 1.0;            // < 1: of those, the fewest most probable ones that have this share of their mass at
                                 // the row's temperature
  ArrayView token;               // [R] int32
  ArrayView logprob;             // [R] fp32: log-softmax of the plain logits at the token
  ArrayView runner_up;           // [R] int32: the largest plain logit but the token's; -1 without one
  ArrayView runner_up_logprob;   // [R] fp32
  ArrayView entropy;             // [R] fp32
  ArrayView logsumexp;           // [R] fp32
};

// Throws TypeError or ValueError; the values of arrays are not read.
void check_token_confidence(const TokenConfidenceArgs& args, const Backend& backend);

// Logits are rounded to the dtype of hidden; equal ones are ordered by lower token. A row whose distribution is not
// finite (NaN or infinite logits) gets token -1 and NaN elsewhere. Throws TypeError or ValueError.
void token_confidence(const TokenConfidenceArgs& args);

}  // namespace llada

// The head and what a sampler asks of it on a GPU: the checked entry, and the launcher that it calls.
#pragma once

#include <cstdint>

#include "grouped_gemm/grouped_gemm_cuda.h"

namespace llada {

struct ArrayView;
struct TokenConfidenceArgs;

namespace cuda {

struct Stream;

// The floats of workspace that a call needs, contiguous, on the device of hidden.
std::int64_t token_confidence_workspace(const TokenConfidenceArgs& args);

// Plain weights alone, and neither top_k nor top_p. On a GPU the values of arrays are not read by the host: a forbidden
// or biased token out of range is none, a temperature out of range is 0, and a row with no token left to choose gets
// token -1.
void token_confidence(const TokenConfidenceArgs& args, const ArrayView& workspace, const Stream& stream);

// Floats of workspace for each row and each tile of the vocabulary.
inline constexpr std::int64_t kVocabularyTile = 128, kTilePartFloats = 12;

struct TokenConfidenceParams {
  ProductParams product;  // hidden times the head's weight; without y
  double temperature;
  const void* temperatures;  // [rows] fp32 or fp64, temperature_stride elements apart, in place of temperature; or null
  bool wide_temperatures;
  std::int64_t temperature_stride;
  std::int64_t seed;
  const std::int64_t* noise_keys;  // [rows], noise_key_stride elements apart, or null: first_row on
  std::int64_t noise_key_stride, first_row;
  const void* forbidden;  // [forbidden_count] int32 or int64, forbidden_stride elements apart
  bool wide_forbidden;
  std::int64_t forbidden_stride, forbidden_count;
  std::int64_t mask_token;          // or -1
  const std::int64_t* bias_tokens;  // [rows, bias_count] with strides, or null
  const float* bias_values;
  std::int64_t bias_count, bias_token_strides[2], bias_value_strides[2];
  float* parts;  // [rows, vocabulary tiles, kTilePartFloats]
  std::int32_t *token, *runner_up;
  float *logprob, *runner_up_logprob, *entropy, *logsumexp;  // [rows] each
};
int token_confidence_sm80(const TokenConfidenceParams& params);

}  // namespace cuda
}  // namespace llada

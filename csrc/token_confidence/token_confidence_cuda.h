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

// Plain weights alone, and a top_k of at most kMaxTopK, or of the vocabulary, which is none. On a GPU the values of
// arrays are not read by the host: a forbidden or biased token out of range is none, a temperature out of range is 0,
// and a row with no token left to choose gets token -1.
void token_confidence(const TokenConfidenceArgs& args, const ArrayView& workspace, const Stream& stream);

inline constexpr std::int64_t kMaxTopK = 256;
// Floats of workspace for each row and each tile of the vocabulary, and for each row of a call with top_k or top_p.
inline constexpr std::int64_t kVocabularyTile = 128, kTilePartFloats = 12, kOpenRowFloats = 32;
inline constexpr std::int64_t kCandidatesPerKept = 64;  // see token_top_k_sm80.cu
// What noise chooses, with top_p alone: of each tile and of each row; see token_nucleus_sm80.cu.
inline constexpr std::int64_t kTileChoices = 6, kRowChoices = 8;

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
  std::int64_t top_k;           // at most kMaxTopK, or 0
  double top_p;                 // at most 1
  float* parts;                 // [rows, vocabulary tiles, kTilePartFloats]
  float* open_rows;             // [rows, kOpenRowFloats]; null without top_k and top_p
  std::uint64_t* candidates;    // [rows, kCandidatesPerKept * top_k]; null without top_k
  std::uint64_t* tile_choices;  // [rows, vocabulary tiles, kTileChoices]; null without top_p or with top_k
  std::int32_t *token, *runner_up;
  float *logprob, *runner_up_logprob, *entropy, *logsumexp;  // [rows] each
};
int token_confidence_sm80(const TokenConfidenceParams& params);
// What token_confidence_sm80 leaves open.
int token_top_k_sm80(const TokenConfidenceParams& params);
int token_nucleus_sm80(const TokenConfidenceParams& params);

}  // namespace cuda
}  // namespace llada

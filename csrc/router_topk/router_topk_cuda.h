// Routing on a GPU: the checked entry, and the launcher that it calls.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace llada {

struct RouterTopkArgs;

namespace cuda {

struct Stream;

void router_topk(const RouterTopkArgs& args, const Stream& stream);

inline constexpr std::int64_t kMaxRoutedExperts = 1024;  // a lane holds up to 32

struct RouterTopkParams {
  DType dtype;
  const void* logits;  // [tokens, num_experts], rows logits_stride elements apart
  std::int64_t logits_stride;
  std::int64_t tokens;
  int num_experts, k;
  bool sigmoid;
  DType bias_dtype;
  const void* bias;  // [num_experts], bias_stride elements apart, or null
  std::int64_t bias_stride;
  bool bias_in_weights;
  int num_groups, topk_groups;
  bool renormalize;
  float scale;
  float* weights;         // [tokens, k]
  std::int32_t* experts;  // [tokens, k]
  void* stream;
};
int router_topk_sm80(const RouterTopkParams& params);

}  // namespace cuda
}  // namespace llada

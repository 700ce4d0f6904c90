// Routing on a GPU: checked entries, and the launchers that they call.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace llada {

struct ArrayView;
struct RouterArgs;
struct RouterTopkArgs;

namespace cuda {

struct Stream;

void router_topk(const RouterTopkArgs& args, const Stream& stream);

// logits: [T, router_logits(E)] of the dtype of x, for more experts than one kernel takes from product to choice.
void router(const RouterArgs& args, const ArrayView& logits, const Stream& stream);
std::int64_t router_logits(std::int64_t num_experts);

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

inline constexpr int kMaxFusedExperts = 256;

struct RouterParams {
  RouterTopkParams choice;  // its logits are not read; dtype is that of x and gate
  const void* x;            // [tokens, hidden], rows x_stride elements apart
  std::int64_t x_stride;
  const void* gate;  // [num_experts, hidden], rows gate_stride elements apart
  std::int64_t gate_stride, hidden;
};
int router_sm80(const RouterParams& params);

}  // namespace cuda
}  // namespace llada

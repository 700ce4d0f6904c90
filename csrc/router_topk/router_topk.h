// Routing: the scores of a token's experts, the k best of them and their weights, in one pass per token.
#pragma once

#include <cstdint>

#include "common/check.h"

namespace llada {

enum class RouterScore : std::uint8_t { kSoftmax, kSigmoid };

struct RouterTopkArgs {
  ArrayView logits;  // [T, E] fp32 or bf16, rows contiguous
  std::int64_t k = 1;
  RouterScore score = RouterScore::kSoftmax;
  ArrayView bias;  // optional [E] fp32 or bf16, added to the scores before the choice
  bool bias_in_weights = true;
  std::int64_t num_groups = 1;   // > 1: experts are chosen from the topk_groups groups whose two best scores
  std::int64_t topk_groups = 1;  // have the largest sum
  bool renormalize = false;      // divide by (sum + 1e-20)
  double scale = 1.0;
  ArrayView weights;  // [T, k] fp32, contiguous
  ArrayView experts;  // [T, k] int32, contiguous
};

void check_router_topk(const RouterTopkArgs& args, const Backend& backend);

// Experts in falling order of score, equal scores by lower index. NaN counts as the largest score, as in torch.sort,
// so that it reaches the weights instead of hiding. Throws TypeError or ValueError.
void router_topk(const RouterTopkArgs& args);

struct RouterArgs {
  ArrayView x;            // [T, H] fp32 or bf16, rows contiguous
  ArrayView gate_weight;  // [E, H], the dtype of x, rows contiguous
  RouterTopkArgs topk;    // its logits are ignored
};

void check_router(const RouterArgs& args, const Backend& backend);

// The same with logits = x times gate_weight transposed, rounded to x's dtype; they live for a few rows at a time.
void router(const RouterArgs& args);

}  // namespace llada

// Sorting assignments (token, slot) by expert, gathering rows in that order, and summing them back per token.
#pragma once

#include <cstdint>

#include "common/check.h"

namespace llada {

struct ExpertOrderArgs {
  ArrayView experts;  // [T, k] int32 or int64, contiguous; values 0..num_experts, the last meaning "not mine"
  std::int64_t num_experts = 1;
  ArrayView order;    // [T * k] int32: assignment token * k + slot, stable by expert, "not mine" last
  ArrayView offsets;  // [num_experts + 1] int32: expert e's assignments are order[offsets[e] .. offsets[e + 1])
};
void check_expert_order(const ExpertOrderArgs& args, const Backend& backend);
void expert_order(const ExpertOrderArgs& args);

struct PermuteArgs {
  ArrayView x;      // [T, H] fp32 or bf16, rows contiguous
  ArrayView order;  // [A] int32, contiguous
  std::int64_t k = 1;
  ArrayView out;  // [A, H], contiguous
};
void check_permute(const PermuteArgs& args, const Backend& backend);
void permute(const PermuteArgs& args);

struct UnpermuteArgs {
  ArrayView y_sorted;  // [A, H] fp32 or bf16, rows contiguous
  ArrayView order;     // [A] int32, contiguous, each assignment at most once; a missing one adds nothing
  ArrayView weights;   // [T, k] fp32 or bf16, contiguous
  ArrayView out;       // [T, H], contiguous
};
void check_unpermute(const UnpermuteArgs& args, const Backend& backend);

// Summed in slot order in fp32, rounded once.
void unpermute(const UnpermuteArgs& args);

}  // namespace llada

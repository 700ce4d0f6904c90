// The stable counting sort behind expert_order and moe_mlp: assignments (token, slot) by expert, then by token.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "common/check.h"

namespace llada {

// Throws ValueError unless every value is in 0 .. highest.
template <class Index>
void check_range(const char* op, const char* argument, const Index* values, std::int64_t count, std::int64_t highest) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (values[i] < 0 || values[i] > highest) {
      require(op, argument, false, "in 0 .. " + std::to_string(highest), std::to_string(values[i]));
    }
  }
}

// Expert e's rows are order[offsets[e]] .. order[offsets[e + 1] - 1]; expert num_experts ("not mine") comes last.
// experts [count] in 0 .. num_experts; offsets [num_experts + 2]; order [count].
template <class Index>
void sort_by_expert(const Index* experts, std::int64_t count, std::int64_t num_experts, std::int32_t* offsets,
                    std::int32_t* order) {
  std::fill_n(offsets, num_experts + 2, 0);
  for (std::int64_t a = 0; a < count; ++a) ++offsets[experts[a] + 1];
  for (std::int64_t e = 0; e <= num_experts; ++e) offsets[e + 1] += offsets[e];
  for (std::int64_t a = 0; a < count; ++a) order[offsets[experts[a]]++] = static_cast<std::int32_t>(a);
  // Filling moved every offset to its group's end, which is where the next one starts.
  std::copy_backward(offsets, offsets + num_experts + 1, offsets + num_experts + 2);
  offsets[0] = 0;
}

}  // namespace llada

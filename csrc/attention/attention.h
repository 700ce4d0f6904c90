// Bidirectional attention with the masks of diffusion language models, and its checked entry.
#pragma once

#include <cstdint>
#include <optional>

#include "common/array_view.h"
#include "common/check.h"

namespace llada {

struct AttentionArgs {
  ArrayView q;                  // [B, S, Hq, D] fp32 or bf16 (or fp16 on a GPU), last dimension contiguous
  ArrayView k;                  // [B, L, Hkv, D]
  ArrayView v;                  // [B, L, Hkv, D]
  ArrayView mask;               // optional bool [B or 1, Hq or 1, S, L], any strides; true = attend
  ArrayView key_range;          // optional int32 or int64 [B, 2]: first key, one past the last
  ArrayView cu_seqlens;         // optional int32 or int64 [sequences + 1]; B = 1, S = L
  std::int64_t block_size = 0;  // > 0: a query sees the keys of its own block and of earlier ones
  std::optional<double> scale;  // default 1 / sqrt(D)
  ArrayView out;                // [B, S, Hq, D], last dimension contiguous
};

inline constexpr std::int64_t kMaxHeadSize = 256;

// Throws TypeError or ValueError; the values of key_range and cu_seqlens are not read.
void check_attention(const AttentionArgs& args, const Backend& backend);

// A row with no key to attend to gives zeros. Throws TypeError or ValueError.
void attention(const AttentionArgs& args);

}  // namespace llada

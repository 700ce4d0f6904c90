// What one panel of some rows' logits adds to their distributions: written once, compiled for each instruction set. The
// rows of a tile [rows][32] come in one call: what one waits for, its reductions, overlaps with the next one's work.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace llada {

// What is kept of a tile's rows, at most 12, lies side by side, a lane a row: as many as fill the widest vector.
inline constexpr int kRowLanes = 16;

// A panel's sums of e^(l - reference), and of (l - reference) e^(l - reference).
struct alignas(64) PowerSums {
  float sum[kRowLanes], weighted[kRowLanes];
};

// What rows' noise is drawn from and what it has to reach.
struct alignas(64) NoiseLanes {
  std::uint64_t start[kRowLanes];  // GumbelStream::counter(0)
  float value[kRowLanes];          // rounded down
  float scale[kRowLanes];          // 1 / temperature
};

struct PanelStatistics {
  void (*round_to_bfloat16)(float* tile, int rows);
  // Each row's; NaN is not higher than a number; the sums report it.
  void (*highest)(const float* tile, int rows, float* highest);
  // Each row's, relative to its reference. Minus infinity adds exactly nothing.
  void (*power_sums)(const float* tile, int rows, const float* references, PowerSums& sums);
  // Of e^((l - reference) * scale), likewise.
  void (*scaled_power_sums)(const float* tile, int rows, const float* references, const float* scales, float* sums);
  // A bit for each of the rows asked for where noise could bring one of 32 tokens, none of a logit above `highest`, up
  // to the row's value; at times for others. `lowest` becomes a number with the leading zeros of the smallest
  // GumbelStream::bits of these tokens: its noise_limit is that of all of them.
  std::uint32_t (*may_reach)(const NoiseLanes& noise, const float* highest, std::int64_t first_token,
                             std::uint32_t rows, std::uint64_t* lowest);

  // All lanes': adds what a panel gives.
  void (*add_lanes)(const float* panel, double* sums);
  // A bit for each lane whose value is at least the bound, and above it.
  std::uint32_t (*lanes_at_least)(const float* values, const float* bounds);
  std::uint32_t (*lanes_above)(const float* values, const float* bounds);

  // Of one row: copies the logits of at least that, with their tokens, and returns how many they are. What lies after
  // them, up to 32 in all, is overwritten.
  int (*copy_at_least)(const float* logits, float least, std::int64_t first_token, float* kept, std::int32_t* tokens);
  // Of one row: a bit for each logit of at least that.
  std::uint32_t (*at_least)(const float* logits, float least);
  // Makes one row's logits minus infinity that have no bit.
  void (*keep)(float* logits, std::uint32_t bits);
};

const PanelStatistics& select_panel_statistics(Isa isa);

const PanelStatistics& panel_statistics_portable();
const PanelStatistics& panel_statistics_avx2();
const PanelStatistics& panel_statistics_avx512();

}  // namespace llada

// What one panel of some rows' logits adds to their distributions: written once, compiled for each instruction set. The
// rows of a tile [rows][32] come in one call: what one waits for, its reductions, overlaps with the next one's work.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "cpu/panel_gemm.h"

namespace llada {

// What is kept of a tile's rows, at most 12, lies side by side, a lane a row: as many as fill the widest vector.
inline constexpr int kRowLanes = 16;

// A sum of each row's, in as many parts as the widest vector has lanes: nothing is added up across a vector until some
// panels have streamed by; then it is, in double, before a part has lost what is small beside it.
struct alignas(64) RowSums {
  static constexpr int kParts = 16, kPanelsApart = 16;
  float parts[kMaxPanelRows][kParts];
  double settled[kMaxPanelRows];

  double of(int row) const {
    double sums[4] = {};
    for (int i = 0; i < kParts; i += 4) {
      for (int j = 0; j < 4; ++j) sums[j] += parts[row][i + j];
    }
    return settled[row] + ((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }

  void settle_row(int row) {
    settled[row] = of(row);
    for (float& part : parts[row]) part = 0.0f;
  }

  void settle(int rows) {
    for (int row = 0; row < rows; ++row) settle_row(row);
  }
};

// Where a tile's rows have to be looked at: from which logits on.
struct alignas(64) RowBounds {
  float above[kRowLanes], candidate[kRowLanes], noised[kRowLanes];
};

// A bit for each row with a logit above the first, and of at least the others.
struct RowsReached {
  std::uint32_t above, candidate, noised;
};

// What rows' noise is drawn from and what it has to reach.
struct alignas(64) NoiseLanes {
  std::uint64_t start[kRowLanes];  // GumbelStream::counter(0)
  float value[kRowLanes];          // rounded down
  float scale[kRowLanes];          // 1 / temperature
};

struct PanelStatistics {
  void (*round_to_bfloat16)(float* tile, int rows);
  // Each row's highest; NaN is not higher than a number; the sums report it.
  RowsReached (*highest)(float* tile, int rows, const RowBounds& bounds, float* highest);
  // Rounds the tile to bf16 as well.
  RowsReached (*highest_rounded)(float* tile, int rows, const RowBounds& bounds, float* highest);
  // Adds e^(l - reference), and (l - reference) e^(l - reference), of each row's logits; exactly nothing of minus
  // infinity.
  void (*add_powers)(const float* tile, int rows, const float* references, RowSums& sum, RowSums& weighted);
  // Adds e^((l - reference) * scale), likewise.
  void (*add_scaled_powers)(const float* tile, int rows, const float* references, const float* scales, RowSums& sum);
  // A bit for each of the rows asked for where noise could bring one of 32 tokens, none of a logit above `highest`, up
  // to the row's value; at times for others. `lowest` becomes a number with the leading zeros of the smallest
  // GumbelStream::bits of these tokens: its noise_limit is that of all of them.
  std::uint32_t (*may_reach)(const NoiseLanes& noise, const float* highest, std::int64_t first_token,
                             std::uint32_t rows, std::uint64_t* lowest);

  // Of one row: copies the logits of at least that, with their tokens, and returns how many they are. What lies after
  // them, up to 32 in all, is overwritten.
  int (*copy_at_least)(const float* logits, float least, std::int64_t first_token, float* kept, std::int32_t* tokens);
  // Their choice_key.
  void (*make_keys)(const float* logits, const std::int32_t* tokens, int count, std::uint64_t* keys);
  // Of one row: a bit for each logit of at least that.
  std::uint32_t (*at_least)(const float* logits, float least);
  // Keys of at least the pivot go to `kept`, others to `below`; returns how many are kept. What lies after them, up to
  // 7 more, may be overwritten.
  std::int64_t (*split_keys)(const std::uint64_t* keys, std::int64_t count, std::uint64_t pivot, std::uint64_t* kept,
                             std::uint64_t* below);
  // Makes one row's logits minus infinity that have no bit.
  void (*keep)(float* logits, std::uint32_t bits);
};

const PanelStatistics& select_panel_statistics(Isa isa);

const PanelStatistics& panel_statistics_portable();
const PanelStatistics& panel_statistics_avx2();
const PanelStatistics& panel_statistics_avx512();

}  // namespace llada

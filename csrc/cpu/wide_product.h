// Many rows of one group times its panels, the rows read as they lie in memory: the loop nest of wide_gemm.
//
//   for each two panels, for some 500 rows, for each 1024 lanes:     (256 KB of the panels stay in L2 for all the rows)
//     for each chunk of <= 6 or 12 rows:  wide_gemm -> its sums [2][rows][32]
//                                         after the last lanes epilogue(chunk, panel, tile)
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/panel_product.h"

namespace llada {

inline constexpr std::int64_t kWideRows = 32;  // from which on packing rows costs more than two streams of weights

struct WideProduct {
  WideKernel kernel;
  const PanelWeights& weights;
  const RowSource& source;  // not gathered
  const std::vector<RowChunk>& chunks;
};

// None where there is no such kernel, or a row's last lane would need padding.
inline WideKernel select_wide(const PanelWeights& weights) {
  const bool whole = weights.lanes() > 0 && (weights.format != PanelFormat::kBFloat16 || weights.k % 2 == 0);
  return whole ? select_wide_gemm(weights.format, active_isa()) : WideKernel{};
}

inline std::int64_t wide_pairs(const PanelWeights& weights) { return (weights.panels() + 1) / 2; }

// Chunks [chunk_begin, chunk_end) times the pairs of panels [pair_begin, pair_end). What comes after the present lanes
// is fetched meanwhile, a share with each chunk, one panel's and then the other's: as one stream.
template <class Epilogue>
void run_wide(const WideProduct& product, std::int64_t chunk_begin, std::int64_t chunk_end, std::int64_t pair_begin,
              std::int64_t pair_end, Epilogue&& epilogue) {
  constexpr std::int64_t kLanes = 1024, kRows = 516, kLaneBytes = kPanelColumns * 4;
  static_assert(kLanes % kLaneBlock == 0);
  const std::int64_t max_chunks = kRows / product.kernel.rows, sum_size = 2 * product.kernel.rows * kPanelColumns;
  const PanelWeights& weights = product.weights;
  const RowSource& source = product.source;
  const std::int64_t words = weights.scratch_size(), lanes = weights.lanes(), panels = weights.panels();
  const std::int64_t row_bytes = source.row_stride * dtype_bytes(source.dtype);
  auto* scratch = weights.packed ? nullptr : thread_scratch<struct PanelScratch, std::uint32_t>(2 * words);
  auto* sums = thread_scratch<struct SumScratch, float>(std::min(max_chunks, chunk_end - chunk_begin) * sum_size);
  for (std::int64_t panel = 2 * pair_begin; panel < std::min(2 * pair_end, panels); panel += 2) {
    const auto count = static_cast<int>(std::min<std::int64_t>(2, panels - panel));
    const std::uint32_t* pair = scratch;
    if (weights.packed) pair = reinterpret_cast<const std::uint32_t*>(weights.stretch(0, panel));
    for (int p = 0; p < count && !weights.packed; ++p) weights.panel(0, panel + p, scratch + p * words);
    for (std::int64_t first = chunk_begin; first < chunk_end; first += max_chunks) {
      const std::int64_t last = std::min(first + max_chunks, chunk_end), chunks = last - first;
      for (std::int64_t lane = 0; lane < lanes; lane += kLanes) {
        const std::int64_t part = std::min(kLanes, lanes - lane), after = lane + part;
        const bool more = after < lanes || (weights.packed && panel + 2 < panels);
        const std::uint32_t* coming = pair + (after < lanes ? after * kPanelColumns : 2 * words);
        const std::int64_t step = more ? std::min((2 * kLaneBytes + chunks - 1) / chunks, kLaneBytes) : 0;
        for (std::int64_t c = first; c < last; ++c) {
          const RowChunk& chunk = product.chunks[c];
          const char* row = static_cast<const char*>(source.data) + chunk.first_row * row_bytes + 4 * lane;
          const std::int64_t share = (c - first) * step * part, second = share < kLaneBytes * part ? 0 : 1;
          const char* next =
              reinterpret_cast<const char*>(coming + second * words) + share - second * kLaneBytes * part;
          float* tiles = sums + (c - first) * sum_size;
          product.kernel.gemm({.rows = row,
                               .row_bytes = row_bytes,
                               .panel = pair + lane * kPanelColumns,
                               .panel_words = words,
                               .num_rows = chunk.num_rows,
                               .num_panels = count,
                               .lanes = part,
                               .first = lane == 0,
                               .out = tiles,
                               .next = next,
                               .next_step = step});
          if (after < lanes) continue;
          for (int p = 0; p < count; ++p) epilogue(chunk, panel + p, tiles + p * chunk.num_rows * kPanelColumns);
        }
      }
    }
  }
}

}  // namespace llada

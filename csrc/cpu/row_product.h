// Rows of one group times weights that fit a core's L2 and so are no stream: threads take rows, not panels, and
// multiply a chunk of them with all panels at once. Rows that have to be packed are so by the thread that needs them:
// no phase of packing that all threads wait for.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/wide_product.h"

namespace llada {

inline bool stays_in_cache(const PanelWeights& weights) {
  constexpr std::int64_t kCachedBytes = 1 << 19;
  return weights.panels() * weights.scratch_size() * 4 <= kCachedBytes;
}

// Every thread asks make_epilogue() for its own epilogue, which then sees the panels of a chunk in order, chunk after
// chunk.
template <class MakeEpilogue>
void run_rows(const PanelWeights& weights, const RowSource& source, std::int64_t num_rows,
              const MakeEpilogue& make_epilogue) {
  thread_local std::vector<RowChunk> kept_chunks;
  std::vector<RowChunk>& chunks = kept_chunks;  // for the body: other threads have a thread_local of their own
  const WideKernel wide = select_wide(weights);
  cut_rows(num_rows, wide.gemm == nullptr ? kMaxPanelRows : wide.rows, chunks);
  const std::int64_t panels = weights.panels(), lanes = weights.lanes();
  const auto count = static_cast<std::int64_t>(chunks.size());
  const std::int64_t useful = useful_threads(panels, num_rows / kMaxPanelRows + 1, lanes);
  parallel_for(0, count, count / std::max<std::int64_t>(1, useful) + 1, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t size = std::max<std::int64_t>(weights.scratch_size(), 1);
    PanelWeights cached = weights;
    if (!weights.ready()) {
      auto* scratch = thread_scratch<struct CachedPanels, std::uint32_t>(panels * size);
      for (std::int64_t p = 0; p < panels; ++p) weights.panel(0, p, scratch + p * size);
      cached.data = reinterpret_cast<const char*>(scratch);
      cached.packed = true;
    }
    auto epilogue = make_epilogue();
    if (wide.gemm != nullptr) {
      for (std::int64_t c = begin; c < end; ++c) {
        run_wide({wide, cached, source, chunks}, c, c + 1, 0, wide_pairs(weights), epilogue);
      }
      return;
    }
    const PanelGemm gemm = select_panel_gemm(weights.format, active_isa());
    const auto* stored = reinterpret_cast<const std::uint32_t*>(cached.data);
    auto* rows = thread_scratch<struct ChunkScratch, std::uint32_t>(
        std::max<std::int64_t>(weights.words_per_row() * kMaxPanelRows, 1));
    alignas(64) float tile[kMaxPanelRows * kPanelColumns];
    for (std::int64_t c = begin; c < end; ++c) {
      const RowChunk& chunk = chunks[c];
      pack_chunk(weights, source, chunk, rows);
      for (std::int64_t p = 0; p < panels; ++p) {
        gemm({rows, stored + p * size, chunk.num_rows, lanes, tile, kPanelColumns, rows, 0});
        epilogue(chunk, p, tile);
      }
    }
  });
}

}  // namespace llada

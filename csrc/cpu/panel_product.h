// Packed rows times panels, over all groups and threads: the loop nest that linear, grouped_gemm and moe_mlp share.
//
//   for each group of row chunks, for each panel of its weights:        (a panel stays in L2 for all the chunks)
//     for each chunk of <= 12 rows:  panel_gemm -> tile [rows][32] -> epilogue(chunk, panel, tile)
//
// Threads split the panel range: each reads one long stream of every group's weights, and gets the same share of the
// bytes and of the arithmetic however uneven the groups are. Only where there are too few panels are the chunks split
// as well.
//
// Weights that fit a core's L2 are no stream: there, threads take rows, pack them and multiply at once (run_rows), in
// one loop where the other way round needs two with a barrier between them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/parallel.h"
#include "cpu/panel_gemm.h"
#include "cpu/panel_weights.h"
#include "cpu/thread_scratch.h"

namespace llada {

struct RowChunk {
  std::int64_t group;
  std::int64_t first_row;
  int num_rows;
};

// Cuts each group's rows [offsets[g], offsets[g + 1]) into chunks of at most 12 rows, evened out: 13 rows become 7 + 6.
void cut_rows(const std::int32_t* offsets, std::int64_t groups, std::vector<RowChunk>& chunks);

// Rows of k elements: row r is row r of data, or row index_of_row[r] when that is not null.
struct RowSource {
  DType dtype;  // that of the weights unless they are quantised
  const void* data;
  std::int64_t row_stride;  // in elements
  const std::int32_t* index_of_row;
};

void pack_chunk(const PanelWeights& weights, const RowSource& source, const RowChunk& chunk, std::uint32_t* rows);

// Packs every chunk's rows, chunk after chunk: chunk c at rows + c.first_row * words_per_row().
void pack_chunks(const PanelWeights& weights, const RowSource& source, const std::vector<RowChunk>& chunks,
                 std::uint32_t* rows);

struct PanelProduct {
  PanelWeights weights;
  const std::uint32_t* rows;
  const std::vector<RowChunk>& chunks;
};

// How many parts the chunks are split into, and how few (part, panel) items are worth a thread.
struct ProductPlan {
  std::int64_t chunk_parts;
  std::int64_t grain;
};

ProductPlan plan_product(std::int64_t panels, std::int64_t chunks, std::int64_t lanes, int threads);

// One group's chunks times panels [panel_begin, panel_end).
//
// Few chunks: panel by panel. While a panel is multiplied with its chunks, the next one is fetched, a share with each
// chunk, so that memory and arithmetic overlap; a single chunk is all stream and fetches 2 KB ahead, where DRAM is
// fastest. Many chunks: their rows no longer stay in L2 and are read once for a block of panels.
template <class Epilogue>
void run_group(const PanelProduct& product, std::int64_t chunk_begin, std::int64_t chunk_end, std::int64_t panel_begin,
               std::int64_t panel_end, const Epilogue& epilogue) {
  constexpr std::int64_t kFewChunks = 3, kBlockBytes = 1 << 18, kAheadBytes = 1 << 11;
  const PanelWeights& weights = product.weights;
  const std::int64_t lanes = weights.lanes(), size = std::max<std::int64_t>(weights.scratch_size(), 1);
  const std::int64_t group = product.chunks[chunk_begin].group, chunks = chunk_end - chunk_begin;
  const PanelGemm int4_gemm =
      weights.format == PanelFormat::kInt4 && chunks == 1 ? select_int4_gemm(active_isa()) : nullptr;
  const PanelGemm gemm = int4_gemm == nullptr ? select_panel_gemm(weights.format, active_isa()) : int4_gemm;
  const bool streamed = weights.ready() || int4_gemm != nullptr;
  const std::int64_t block = chunks <= kFewChunks ? 1 : std::max<std::int64_t>(1, kBlockBytes / (4 * size));
  auto* scratch = streamed ? nullptr : thread_scratch<struct PanelScratch, std::uint32_t>(size * block);
  const std::uint32_t* panels[kBlockBytes / (4 * kPanelColumns)];
  alignas(64) float tile[kMaxPanelRows * kPanelColumns];
  for (std::int64_t first = panel_begin; first < panel_end; first += block) {
    const std::int64_t last = std::min(first + block, panel_end);
    for (std::int64_t p = first; p < last; ++p) {
      panels[p - first] = streamed ? reinterpret_cast<const std::uint32_t*>(weights.stretch(group, p))
                                   : weights.panel(group, p, scratch + (p - first) * size);
    }
    for (std::int64_t c = chunk_begin; c < chunk_end; ++c) {
      const RowChunk& chunk = product.chunks[c];
      for (std::int64_t p = first; p < last; ++p) {
        const char* next = weights.stretch(group, std::min(p + last - first, panel_end - 1));
        std::int64_t step = weights.stretch_bytes() / std::max<std::int64_t>(lanes, 1);
        if (chunks == 1 && streamed) {
          next = reinterpret_cast<const char*>(panels[p - first]) + kAheadBytes;
        } else if (next != nullptr) {
          step = (step + chunks - 1) / chunks;
          next += (c - chunk_begin) * step * lanes;
        }
        gemm({product.rows + chunk.first_row * weights.words_per_row(), panels[p - first], chunk.num_rows, lanes, tile,
              kPanelColumns, next, step});
        epilogue(chunk, p, tile);
      }
    }
  }
}

template <class Epilogue>
void run_product(const PanelProduct& product, const Epilogue& epilogue) {
  const std::int64_t panels = product.weights.panels(), chunks = static_cast<std::int64_t>(product.chunks.size());
  const ProductPlan plan = plan_product(panels, chunks, product.weights.lanes(), num_threads());
  parallel_for(0, plan.chunk_parts * panels, plan.grain, [&](std::int64_t item, std::int64_t end) {
    while (item < end) {
      const std::int64_t part = item / panels, panel = item % panels;
      const std::int64_t panel_end = std::min(panels, panel + end - item);
      std::int64_t chunk = chunks * part / plan.chunk_parts;
      for (const std::int64_t part_end = chunks * (part + 1) / plan.chunk_parts; chunk < part_end;) {
        std::int64_t group_end = chunk + 1;
        while (group_end < part_end && product.chunks[group_end].group == product.chunks[chunk].group) ++group_end;
        run_group(product, chunk, group_end, panel, panel_end, epilogue);
        chunk = group_end;
      }
      item += panel_end - panel;
    }
  });
}

// Whether the panels of one group are few enough for run_rows.
inline bool stays_in_cache(const PanelWeights& weights) {
  constexpr std::int64_t kCachedBytes = 1 << 19;
  return weights.panels() * weights.scratch_size() * 4 <= kCachedBytes;
}

// One group whose panels stay in cache. Every thread asks make_epilogue() for its own epilogue, which then sees the
// panels of a chunk in order, chunk after chunk.
template <class MakeEpilogue>
void run_rows(const PanelWeights& weights, const RowSource& source, const std::vector<RowChunk>& chunks,
              const MakeEpilogue& make_epilogue) {
  const std::int64_t panels = weights.panels(), lanes = weights.lanes();
  const std::int64_t grain = plan_product(1, 1, panels * lanes, num_threads()).grain;
  parallel_for(0, static_cast<std::int64_t>(chunks.size()), grain, [&](std::int64_t begin, std::int64_t end) {
    const PanelGemm gemm = select_panel_gemm(weights.format, active_isa());
    const std::int64_t size = std::max<std::int64_t>(weights.scratch_size(), 1);
    auto* rows = thread_scratch<struct ChunkScratch, std::uint32_t>(
        std::max<std::int64_t>(weights.words_per_row() * kMaxPanelRows, 1));
    const auto* cached = reinterpret_cast<const std::uint32_t*>(weights.data);
    if (!weights.ready()) {
      auto* scratch = thread_scratch<struct CachedPanels, std::uint32_t>(panels * size);
      for (std::int64_t p = 0; p < panels; ++p) weights.panel(0, p, scratch + p * size);
      cached = scratch;
    }
    auto epilogue = make_epilogue();
    alignas(64) float tile[kMaxPanelRows * kPanelColumns];
    for (std::int64_t c = begin; c < end; ++c) {
      const RowChunk& chunk = chunks[c];
      pack_chunk(weights, source, chunk, rows);
      for (std::int64_t p = 0; p < panels; ++p) {
        gemm({rows, cached + p * size, chunk.num_rows, lanes, tile, kPanelColumns, rows, 0});
        epilogue(chunk, p, tile);
      }
    }
  });
}

}  // namespace llada

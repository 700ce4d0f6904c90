// Packed rows times panels, over all groups and threads: the loop nest that linear, grouped_gemm and moe_mlp share.
//
//   for each group of row chunks, for each panel of its weights:        (a panel stays in L2 for all the chunks)
//     for each chunk of <= 12 rows:  panel_gemm -> tile [rows][32] -> epilogue(chunk, panel, tile)
//
// Threads split the panel range: each reads one long stream of every group's weights, and gets the same share of the
// bytes and of the arithmetic however uneven the groups are. Only where there are too few panels are the chunks split
// as well.
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

// Packs every chunk's rows, chunk after chunk: chunk c at rows + c.first_row * lanes. Row r is row r of the source, or
// row index_of_row[r] when that is not null.
void pack_chunks(DType dtype, const void* source, std::int64_t row_stride, const std::int32_t* index_of_row,
                 std::int64_t k, const std::vector<RowChunk>& chunks, std::uint32_t* rows);

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

template <class Epilogue>
void run_panels(const PanelProduct& product, std::int64_t chunk_begin, std::int64_t chunk_end, std::int64_t panel_begin,
                std::int64_t panel_end, const Epilogue& epilogue) {
  const PanelWeights& weights = product.weights;
  const PanelGemm gemm = select_panel_gemm(weights.dtype, active_isa());
  const std::int64_t lanes = weights.lanes();
  std::uint32_t* scratch =
      weights.packed
          ? nullptr
          : thread_scratch<struct PanelScratch, std::uint32_t>(std::max<std::int64_t>(weights.panel_size(), 1));
  alignas(64) float tile[kMaxPanelRows * kPanelColumns];
  while (chunk_begin < chunk_end) {
    const std::int64_t group = product.chunks[chunk_begin].group;
    std::int64_t group_end = chunk_begin + 1;
    while (group_end < chunk_end && product.chunks[group_end].group == group) ++group_end;
    for (std::int64_t p = panel_begin; p < panel_end; ++p) {
      const std::uint32_t* panel = weights.panel(group, p, scratch);
      for (std::int64_t c = chunk_begin; c < group_end; ++c) {
        const RowChunk& chunk = product.chunks[c];
        gemm({product.rows + chunk.first_row * lanes, panel, chunk.num_rows, lanes, tile, kPanelColumns});
        epilogue(chunk, p, tile);
      }
    }
    chunk_begin = group_end;
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
      run_panels(product, chunks * part / plan.chunk_parts, chunks * (part + 1) / plan.chunk_parts, panel, panel_end,
                 epilogue);
      item += panel_end - panel;
    }
  });
}

}  // namespace llada

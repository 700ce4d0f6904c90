// Three loops, which give a row the same bits:
//
//   one group, its weights stay in L2:  for a thread's rows, for all panels                        (row_product.h)
//   one group, 32 rows or more:         for panels, two at a time, for the rows as they lie        (wide_product.h)
//   else, for 64 MB of packed rows at a time:  pack the rows | for all groups' panels, for chunks  (panel_product.h)
//
// The second is fp32's and bf16's with AVX-512. Each ends in one epilogue for a tile: SwiGLU of a paired panel, bias,
// rounding, y.
#include "grouped_gemm/grouped_product.h"

#include <algorithm>
#include <vector>

#include "cpu/row_product.h"
#include "cpu/tile_ops.h"

namespace llada {
namespace {

constexpr std::int64_t kPackedWords = 1 << 24;  // 64 MB of packed rows at a time

}  // namespace

void run_grouped_product(const GroupedProduct& product) {
  thread_local std::vector<RowChunk> kept_chunks;
  thread_local std::vector<std::int32_t> offsets;
  std::vector<RowChunk>& chunks = kept_chunks;  // for the bodies: other threads have a thread_local of their own
  const PanelWeights& weights = product.weights;
  const std::int64_t bytes = dtype_bytes(product.dtype), columns = weights.columns, words = weights.words_per_row();
  const std::int64_t total = product.offsets[product.groups];
  const TileOps& ops = select_tile_ops(product.dtype, active_isa());
  std::int64_t first = 0;
  const auto epilogue = [&](const RowChunk& chunk, std::int64_t panel, float* tile) {
    const std::int64_t column = panel * weights.panel_columns();
    if (weights.paired) ops.swiglu(tile, chunk.num_rows);
    ops.store({tile, chunk.num_rows, weights.columns_of(panel),
               product.bias == nullptr ? nullptr : product.bias + column,
               static_cast<char*>(product.y) + ((first + chunk.first_row) * columns + column) * bytes, columns});
  };
  const RowSource source{product.dtype, product.x, product.row_stride, nullptr};
  if (product.groups == 1 && stays_in_cache(weights)) return run_rows(weights, source, total, [&] { return epilogue; });
  const WideKernel wide = product.groups == 1 && total >= kWideRows ? select_wide(weights) : WideKernel{};
  if (wide.gemm != nullptr) {
    cut_rows(total, wide.rows, chunks);
    const ProductPlan plan(chunks, wide_pairs(weights), num_threads());
    const std::int64_t threads = useful_threads(weights.panels(), total / kMaxPanelRows, weights.lanes());
    return parallel_phases(threads, {{plan.items(), 1, [&](std::int64_t begin, std::int64_t end) {
                                        plan.visit(begin, end, [&](auto... stretch) {
                                          run_wide({wide, weights, source, chunks}, stretch..., epilogue);
                                        });
                                      }}});
  }

  const std::int64_t step = std::max<std::int64_t>(kMaxPanelRows, kPackedWords / std::max<std::int64_t>(words, 1));
  for (; first < total; first += step) {
    const std::int64_t last = std::min(total, first + step);
    offsets.assign(product.offsets, product.offsets + product.groups + 1);
    for (std::int32_t& offset : offsets) {
      offset = static_cast<std::int32_t>(std::clamp<std::int64_t>(offset, first, last) - first);
    }
    cut_rows(offsets.data(), product.groups, chunks);
    auto* rows = thread_scratch<struct RowsScratch, std::uint32_t>((last - first) * words);
    const char* x = static_cast<const char*>(product.x) + first * product.row_stride * bytes;
    const auto count = static_cast<std::int64_t>(chunks.size());
    const ProductPlan plan(chunks, weights.panels(), num_threads());
    parallel_phases(useful_threads(weights.panels(), count, weights.lanes()),
                    {{count, 1,
                      [&](std::int64_t begin, std::int64_t end) {
                        pack_chunks(weights, {product.dtype, x, product.row_stride, nullptr}, chunks, begin, end, rows);
                      }},
                     {plan.items(), 1, [&](std::int64_t begin, std::int64_t end) {
                        run_items({weights, rows, chunks}, plan, begin, end, epilogue);
                      }}});
  }
}

}  // namespace llada

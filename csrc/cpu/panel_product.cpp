#include "cpu/panel_product.h"

namespace llada {
namespace {

constexpr std::int64_t kItemsPerThread = 4;
// Lanes x chunks (12 rows times 32 columns a lane) below which waking a thread costs more than it gives.
constexpr std::int64_t kLanesPerThread = 1 << 12;

}  // namespace

void cut_rows(const std::int32_t* offsets, std::int64_t groups, std::vector<RowChunk>& chunks) {
  chunks.clear();
  for (std::int64_t group = 0; group < groups; ++group) {
    std::int64_t row = offsets[group];
    const std::int64_t rows = offsets[group + 1] - row, count = (rows + kMaxPanelRows - 1) / kMaxPanelRows;
    for (std::int64_t c = 0; c < count; ++c) {
      const int size = static_cast<int>(rows / count + (c < rows % count ? 1 : 0));
      chunks.push_back({group, row, size});
      row += size;
    }
  }
}

void pack_chunk(const PanelWeights& weights, const RowSource& source, const RowChunk& chunk, std::uint32_t* rows) {
  const bool gathered = source.index_of_row != nullptr;
  const std::int64_t first = gathered ? 0 : chunk.first_row * source.row_stride * dtype_bytes(weights.dtype);
  pack_rows(weights.dtype, static_cast<const char*>(source.data) + first, source.row_stride,
            gathered ? source.index_of_row + chunk.first_row : nullptr, chunk.num_rows, weights.k, rows);
}

void pack_chunks(const PanelWeights& weights, const RowSource& source, const std::vector<RowChunk>& chunks,
                 std::uint32_t* rows) {
  const std::int64_t lanes = weights.lanes();
  const std::int64_t grain = grain_of(lanes * kMaxPanelRows);
  parallel_for(0, static_cast<std::int64_t>(chunks.size()), grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = begin; c < end; ++c) {
      pack_chunk(weights, source, chunks[c], rows + chunks[c].first_row * lanes);
    }
  });
}

ProductPlan plan_product(std::int64_t panels, std::int64_t chunks, std::int64_t lanes, int threads) {
  if (panels == 0 || chunks == 0) return {0, 1};
  const std::int64_t wanted = (kItemsPerThread * threads + panels - 1) / panels;
  const std::int64_t parts = threads == 1 ? 1 : std::clamp<std::int64_t>(wanted, 1, chunks);
  const std::int64_t item = std::max<std::int64_t>(1, lanes * ((chunks + parts - 1) / parts));
  return {parts, kLanesPerThread / item + 1};
}

}  // namespace llada

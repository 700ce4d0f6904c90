#include "cpu/panel_product.h"

#include <bit>

#include "cpu/tile_ops.h"

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

namespace {

// Each row is quantised into bytes of its own, which are then packed as 32-bit lanes.
void quantize_chunk(const PanelWeights& weights, const RowSource& source, const RowChunk& chunk, std::uint32_t* rows) {
  const TileOps& ops = select_tile_ops(source.dtype, active_isa());
  const std::int64_t lanes = weights.lanes(), row_bytes = source.row_stride * dtype_bytes(source.dtype);
  auto* bytes = thread_scratch<struct ByteScratch, std::int8_t>(std::max<std::int64_t>(lanes * 4 * kMaxPanelRows, 1));
  std::uint32_t* scales = rows + lanes * chunk.num_rows;
  for (int r = 0; r < chunk.num_rows; ++r) {
    const std::int64_t index = chunk.first_row + r;
    const std::int64_t row = source.index_of_row == nullptr ? index : source.index_of_row[index];
    std::int8_t* out = bytes + r * lanes * 4;
    const QuantizedRow quantized =
        ops.quantize(static_cast<const char*>(source.data) + row * row_bytes, weights.k, out);
    std::fill(out + weights.k, out + lanes * 4, std::int8_t{0});
    scales[r] = std::bit_cast<std::uint32_t>(quantized.scale);
    scales[chunk.num_rows + r] = static_cast<std::uint32_t>(-128 * quantized.sum);
  }
  pack_rows(DType::kFloat32, bytes, lanes, nullptr, chunk.num_rows, lanes, rows);
}

}  // namespace

void pack_chunk(const PanelWeights& weights, const RowSource& source, const RowChunk& chunk, std::uint32_t* rows) {
  if (is_quantized(weights.format)) return quantize_chunk(weights, source, chunk, rows);
  const bool gathered = source.index_of_row != nullptr;
  const std::int64_t first = gathered ? 0 : chunk.first_row * source.row_stride * dtype_bytes(source.dtype);
  pack_rows(source.dtype, static_cast<const char*>(source.data) + first, source.row_stride,
            gathered ? source.index_of_row + chunk.first_row : nullptr, chunk.num_rows, weights.k, rows);
}

void pack_chunks(const PanelWeights& weights, const RowSource& source, const std::vector<RowChunk>& chunks,
                 std::uint32_t* rows) {
  const std::int64_t words = weights.words_per_row();
  parallel_for(0, static_cast<std::int64_t>(chunks.size()), grain_of(weights.k * kMaxPanelRows),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t c = begin; c < end; ++c) {
                   pack_chunk(weights, source, chunks[c], rows + chunks[c].first_row * words);
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

#include "cpu/panel_product.h"

#include <bit>

namespace llada {
namespace {

constexpr std::int64_t kItemsPerThread = 4;
// Reading a panel takes as long as multiplying it by about so many rows.
constexpr std::int64_t kStreamRows = 8;
// Lanes x chunks (12 rows times 32 columns a lane) below which waking a thread costs more than it gives.
constexpr std::int64_t kLanesPerThread = 1 << 12;

void cut_group(std::int64_t group, std::int64_t row, std::int64_t rows, std::int64_t most,
               std::vector<RowChunk>& chunks) {
  const std::int64_t count = (rows + most - 1) / most;
  for (std::int64_t c = 0; c < count; ++c) {
    const int size = static_cast<int>(rows / count + (c < rows % count ? 1 : 0));
    chunks.push_back({group, row, size});
    row += size;
  }
}

}  // namespace

void cut_rows(const std::int32_t* offsets, std::int64_t groups, std::vector<RowChunk>& chunks) {
  chunks.clear();
  for (std::int64_t group = 0; group < groups; ++group) {
    cut_group(group, offsets[group], offsets[group + 1] - offsets[group], kMaxPanelRows, chunks);
  }
}

void cut_rows(std::int64_t num_rows, std::int64_t most, std::vector<RowChunk>& chunks) {
  chunks.clear();
  cut_group(0, 0, num_rows, most, chunks);
}

namespace {

// One row as bytes, zeros behind it up to a whole lane.
QuantizedRow quantize_row(const PanelWeights& weights, const RowSource& source, std::int64_t row, std::int8_t* bytes) {
  const TileOps& ops = select_tile_ops(source.dtype, active_isa());
  const char* values = static_cast<const char*>(source.data) + row * source.row_stride * dtype_bytes(source.dtype);
  const QuantizedRow scaling = ops.quantize(values, weights.k, bytes);
  std::fill(bytes + weights.k, bytes + weights.lanes() * 4, std::int8_t{0});
  return scaling;
}

void quantize_chunk(const PanelWeights& weights, const RowSource& source, const RowChunk& chunk, std::uint32_t* rows) {
  const std::int64_t row_bytes = weights.lanes() * 4;
  auto* bytes = thread_scratch<struct ByteScratch, std::int8_t>(std::max<std::int64_t>(row_bytes * kMaxPanelRows, 1));
  QuantizedRow scaling[kMaxPanelRows];
  for (int r = 0; r < chunk.num_rows; ++r) {
    const std::int64_t index = chunk.first_row + r;
    const std::int64_t row = source.index_of_row == nullptr ? index : source.index_of_row[index];
    scaling[r] = quantize_row(weights, source, row, bytes + r * row_bytes);
  }
  pack_bytes(weights, {bytes, scaling}, nullptr, {chunk.group, 0, chunk.num_rows}, rows);
}

}  // namespace

void quantize_rows(const PanelWeights& weights, const RowSource& source, std::int64_t begin, std::int64_t end,
                   const ByteRows& out) {
  const std::int64_t row_bytes = weights.lanes() * 4;
  for (std::int64_t row = begin; row < end; ++row) {
    out.scaling[row] = quantize_row(weights, source, row, out.bytes + row * row_bytes);
  }
}

void pack_bytes(const PanelWeights& weights, const ByteRows& source, const std::int32_t* index_of_row,
                const RowChunk& chunk, std::uint32_t* rows) {
  const std::int64_t lanes = weights.lanes();
  const std::int32_t* index = index_of_row == nullptr ? nullptr : index_of_row + chunk.first_row;
  pack_rows(DType::kFloat32, source.bytes, lanes, index, chunk.num_rows, lanes, rows);
  std::uint32_t* scales = rows + lanes * chunk.num_rows;
  for (int r = 0; r < chunk.num_rows; ++r) {
    const QuantizedRow& scaling = source.scaling[index == nullptr ? r : index[r]];
    scales[r] = std::bit_cast<std::uint32_t>(scaling.scale);
    scales[chunk.num_rows + r] = static_cast<std::uint32_t>(-128 * scaling.sum);
  }
}

void pack_chunk(const PanelWeights& weights, const RowSource& source, const RowChunk& chunk, std::uint32_t* rows) {
  if (is_quantized(weights.format)) return quantize_chunk(weights, source, chunk, rows);
  const bool gathered = source.index_of_row != nullptr;
  const std::int64_t first = gathered ? 0 : chunk.first_row * source.row_stride * dtype_bytes(source.dtype);
  pack_rows(source.dtype, static_cast<const char*>(source.data) + first, source.row_stride,
            gathered ? source.index_of_row + chunk.first_row : nullptr, chunk.num_rows, weights.k, rows);
}

void pack_chunks(const PanelWeights& weights, const RowSource& source, const std::vector<RowChunk>& chunks,
                 std::int64_t begin, std::int64_t end, std::uint32_t* rows) {
  for (std::int64_t c = begin; c < end; ++c) {
    pack_chunk(weights, source, chunks[c], rows + chunks[c].first_row * weights.words_per_row());
  }
}

ProductPlan::ProductPlan(const std::vector<RowChunk>& chunks, std::int64_t panels, int threads) : panels_(panels) {
  const auto count = static_cast<std::int64_t>(chunks.size());
  if (panels == 0 || count == 0) return;
  const std::int64_t wanted = threads == 1 ? 1 : kItemsPerThread * threads;
  const std::int64_t groups = chunks.back().group - chunks.front().group + 1;
  const std::int64_t parts = (wanted + panels * groups - 1) / (panels * groups);
  std::int64_t work = 0;
  for (std::int64_t begin = 0; begin < count;) {
    std::int64_t end = begin + 1;
    while (end < count && chunks[end].group == chunks[begin].group) ++end;
    const std::int64_t step = (end - begin + parts - 1) / parts;
    for (; begin < end; begin += step) {
      const std::int64_t part_end = std::min(begin + step, end);
      std::int64_t rows = 0;
      for (std::int64_t c = begin; c < part_end; ++c) rows += chunks[c].num_rows;
      const std::int64_t panel_work = std::max(rows, kStreamRows);
      work += panel_work * panels;
      segments_.push_back({begin, part_end, panel_work, work});
    }
    begin = end;
  }
  items_ = std::min(wanted, panels * static_cast<std::int64_t>(segments_.size()));
}

std::int64_t useful_threads(std::int64_t panels, std::int64_t chunks, std::int64_t lanes) {
  return panels * chunks * lanes / kLanesPerThread;
}

}  // namespace llada

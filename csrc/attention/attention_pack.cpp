#include "attention/attention_pack.h"

#include <algorithm>
#include <cstring>

#include "attention/attention_tile.h"
#include "cpu/panel_gemm.h"

namespace llada {
namespace {

// One lane of values: the components of one fp32 row, or those of two bf16 rows interleaved (`next` null: zeros).
void interleave(const std::uint32_t* row, const std::uint32_t*, std::int64_t columns, std::uint32_t* lane) {
  std::memcpy(lane, row, columns * sizeof *lane);
}

void interleave(const std::uint16_t* row, const std::uint16_t* next, std::int64_t columns, std::uint32_t* lane) {
  for (std::int64_t c = 0; c < columns; ++c) {
    lane[c] = row[c] | (next == nullptr ? 0u : static_cast<std::uint32_t>(next[c]) << 16);
  }
}

template <class Word>
void pack_values_as(const Word* source, std::int64_t row_stride, std::int64_t count, std::int64_t depth,
                    std::int64_t key_lanes, std::uint32_t* values) {
  constexpr std::int64_t kValues = 4 / sizeof(Word);
  for (std::int64_t first = 0; first < depth; first += kAttentionColumns) {
    const std::int64_t columns = std::min<std::int64_t>(kAttentionColumns, depth - first);
    for (std::int64_t lane = 0; lane < key_lanes; ++lane, values += kAttentionColumns) {
      const std::int64_t key = lane * kValues;
      if (key >= count || columns < kAttentionColumns) std::fill_n(values, kAttentionColumns, 0u);
      if (key >= count) continue;
      const Word* row = source + key * row_stride + first;
      interleave(row, key + 1 < count ? row + row_stride : nullptr, columns, values);
    }
  }
}

}  // namespace

void pack_keys(DType dtype, const void* source, std::int64_t row_stride, std::int64_t count, std::int64_t depth,
               std::uint32_t* keys) {
  const auto* bytes = static_cast<const char*>(source);
  for (std::int64_t key = 0; key < count; key += kPanelColumns) {
    const int columns = static_cast<int>(std::min<std::int64_t>(kPanelColumns, count - key));
    pack_panel(dtype, bytes + key * row_stride * dtype_bytes(dtype), row_stride, columns, depth, keys);
    keys += lane_count(dtype, depth) * kPanelColumns;
  }
}

void pack_values(DType dtype, const void* source, std::int64_t row_stride, std::int64_t count, std::int64_t depth,
                 std::int64_t key_lanes, std::uint32_t* values) {
  if (dtype == DType::kFloat32) {
    pack_values_as(static_cast<const std::uint32_t*>(source), row_stride, count, depth, key_lanes, values);
  } else {
    pack_values_as(static_cast<const std::uint16_t*>(source), row_stride, count, depth, key_lanes, values);
  }
}

}  // namespace llada

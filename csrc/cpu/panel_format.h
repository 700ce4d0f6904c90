// The formats of panels (32 columns of weights) and of the rows that they are multiplied with.
//
//   fp32, bf16   panel [lanes][32] 32-bit lanes of one fp32 or two bf16          rows [lanes][num_rows] alike
//   int8         panel [lanes][32] lanes of four bytes, then [32] fp32 column scales
//                    weight = (byte - 128) * scale
//   int4         panel [blocks of 64 k][ [2 groups of 32 k][32] multipliers (bytes), [8][32] lanes of 8 nibbles ],
//                then [32] fp32 column scales
//                    weight = (nibble - 8) * multiplier * scale,  1 <= multiplier <= 16
//                byte j of a lane holds k = j in its low half and k = j + 4 in its high half
//
// Because (nibble - 8) * multiplier fits a byte, an int4 panel expands to an int8 panel with no rounding, in registers
// or in cache, and everything behind the expansion is shared: integer sums are exact, so both give the same bits.
//
// Rows of int8 and int4 panels are quantised to bytes in -127 .. 127, row by row:
//                rows [lanes][num_rows] lanes of four bytes, [num_rows] fp32 scales, [num_rows] -128 * (sum of bytes)
// The last part takes back the 128 that makes the weights' bytes unsigned, as vpdpbusd wants them.
#pragma once

#include <cstdint>

#include "common/array_view.h"

namespace llada {

enum class PanelFormat : std::uint8_t { kFloat32, kBFloat16, kInt8, kInt4 };

inline constexpr int kPanelColumns = 32;
inline constexpr std::int64_t kInt4Group = 32;       // k-values that share a multiplier
inline constexpr std::int64_t kInt4BlockLanes = 16;  // row lanes of a block of 64 k
inline constexpr std::int64_t kInt4BlockWords = 16 + 8 * kPanelColumns;
inline constexpr int kLargestMultiplier = 16;

inline constexpr PanelFormat panel_format(DType dtype) {
  return dtype == DType::kBFloat16 ? PanelFormat::kBFloat16 : PanelFormat::kFloat32;
}

inline constexpr bool is_quantized(PanelFormat format) { return format >= PanelFormat::kInt8; }

// 32-bit lanes of a row of k values.
inline constexpr std::int64_t row_lanes(PanelFormat format, std::int64_t k) {
  switch (format) {
    case PanelFormat::kFloat32:
      return k;
    case PanelFormat::kBFloat16:
      return (k + 1) / 2;
    case PanelFormat::kInt8:
      return (k + 3) / 4;
    case PanelFormat::kInt4:
      break;
  }
  return (k + 2 * kInt4Group - 1) / (2 * kInt4Group) * kInt4BlockLanes;
}

// 32-bit words of one packed row.
inline constexpr std::int64_t row_words(PanelFormat format, std::int64_t k) {
  return row_lanes(format, k) + (is_quantized(format) ? 2 : 0);
}

// 32-bit words of a panel as it is stored, and as panel_gemm takes it.
inline constexpr std::int64_t panel_words(PanelFormat format, std::int64_t k) {
  const std::int64_t lanes = row_lanes(format, k);
  if (format == PanelFormat::kInt4) return lanes / kInt4BlockLanes * kInt4BlockWords + kPanelColumns;
  return (lanes + (is_quantized(format) ? 1 : 0)) * kPanelColumns;
}

inline constexpr std::int64_t expanded_words(PanelFormat format, std::int64_t k) {
  return (row_lanes(format, k) + (is_quantized(format) ? 1 : 0)) * kPanelColumns;
}

}  // namespace llada

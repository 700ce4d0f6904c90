// The products of a tile, lane by lane: part of its body, compiled once per instruction set after cpu/vector_*.h.
#pragma once

#include <cstdint>

#include "attention/attention_tile.h"
#include "common/bfloat16.h"

namespace llada {
namespace {

// The rows of a tile, which several panels are multiplied with.
template <class Element, int RowStride, int Rows>
struct ProductRows {
  const std::uint32_t* rows;

  LLADA_INLINE ProductRows(const std::uint32_t* source, int /*lanes*/) : rows(source) {}

  // sum[m] += rows[m] x panel over lanes [lane, end), for two vectors of the panel's columns.
  LLADA_INLINE void multiply(const std::uint32_t* panel, int lane, int end, Vector::Float (&sum)[Rows][2]) const {
    for (; lane < end; ++lane) {
      const std::uint32_t* columns = panel + lane * kAttentionColumns;
      const auto left = Vector::load_lanes(columns), right = Vector::load_lanes(columns + Vector::kWidth);
#pragma GCC unroll 12
      for (int m = 0; m < Rows; ++m) {
        const auto value = Vector::broadcast_lane(rows + m * RowStride + lane);
        sum[m][0] = Vector::dot<Element>(sum[m][0], left, value);
        sum[m][1] = Vector::dot<Element>(sum[m][1], right, value);
      }
    }
  }
};

}  // namespace
}  // namespace llada

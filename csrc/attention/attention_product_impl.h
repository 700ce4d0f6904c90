// The products of a tile, lane by lane: part of its body, compiled once per instruction set after cpu/vector_*.h.
#pragma once

#include <cstdint>

#include "attention/attention_tile.h"
#include "common/bfloat16.h"

namespace llada {
namespace {

// sum[m] += rows[m] x panel over `lanes` lanes, for two vectors of the panel's columns.
template <class Element, int RowStride, int Rows>
LLADA_INLINE void product(const std::uint32_t* rows, const std::uint32_t* panel, int lanes,
                          Vector::Float (&sum)[Rows][2]) {
  for (int lane = 0; lane < lanes; ++lane, panel += kAttentionColumns) {
    const auto left = Vector::load_lanes(panel), right = Vector::load_lanes(panel + Vector::kWidth);
#pragma GCC unroll 12
    for (int m = 0; m < Rows; ++m) {
      const auto value = Vector::broadcast_lane(rows + m * RowStride + lane);
      sum[m][0] = Vector::dot<Element>(sum[m][0], left, value);
      sum[m][1] = Vector::dot<Element>(sum[m][1], right, value);
    }
  }
}

}  // namespace
}  // namespace llada

// The products of a tile of bf16 by vfmadd, in the place of attention_product_impl.h: rows are widened into L1 once for
// all panels, panels in registers (cpu/panel_gemm_avx512fma.cpp).
#pragma once

#include <cstdint>

#include "attention/attention_tile.h"
#include "cpu/widen_avx512.h"

namespace llada {
namespace {

template <class Element, int RowStride, int Rows>
struct ProductRows {
  static_assert(sizeof(Element) == 2);
  static constexpr int kLanes = kAttentionBlock / 2;  // the most that a row of queries or weights has
  alignas(64) float even[Rows][kLanes], odd[Rows][kLanes];

  LLADA_INLINE ProductRows(const std::uint32_t* source, int lanes) {
    for (int m = 0; m < Rows; ++m) widen_lanes(source + m * RowStride, lanes, even[m], odd[m]);
  }

  // The sums of Vector::dot.
  LLADA_INLINE void multiply(const std::uint32_t* panel, int lane, int end, Vector::Float (&sum)[Rows][2]) const {
    for (; lane < end; ++lane) {
      const std::uint32_t* columns = panel + lane * kAttentionColumns;
      const __m512i left = _mm512_loadu_si512(columns), right = _mm512_loadu_si512(columns + Vector::kWidth);
#pragma GCC unroll 12
      for (int m = 0; m < Rows; ++m) {
        const auto value = Vector::set(even[m][lane]);
        sum[m][0] = Vector::multiply_add(value, widen_even(left), sum[m][0]);
        sum[m][1] = Vector::multiply_add(value, widen_even(right), sum[m][1]);
      }
#pragma GCC unroll 12
      for (int m = 0; m < Rows; ++m) {
        const auto value = Vector::set(odd[m][lane]);
        sum[m][0] = Vector::multiply_add(value, widen_odd(left), sum[m][0]);
        sum[m][1] = Vector::multiply_add(value, widen_odd(right), sum[m][1]);
      }
    }
  }
};

}  // namespace
}  // namespace llada

// The products of a tile of bf16 by vfmadd, in the place of attention_product_impl.h: rows are widened into L1 for each
// two vectors of columns anew, which is 3 % of the products, panels in registers (cpu/panel_gemm_avx512fma.cpp).
#pragma once

#include <cstdint>

#include "attention/attention_tile.h"
#include "cpu/widen_avx512.h"

namespace llada {
namespace {

// sum[m] += rows[m] x panel over `lanes` lanes, for two vectors of the panel's columns: the sums of Vector::dot.
template <class Element, int RowStride, int Rows>
LLADA_INLINE void product(const std::uint32_t* rows, const std::uint32_t* panel, int lanes,
                          Vector::Float (&sum)[Rows][2]) {
  static_assert(sizeof(Element) == 2);
  constexpr int kLanes = kAttentionBlock / 2;
  alignas(64) float even[Rows][kLanes], odd[Rows][kLanes];
  for (int m = 0; m < Rows; ++m) widen_lanes(rows + m * RowStride, lanes, even[m], odd[m]);
  for (int lane = 0; lane < lanes; ++lane, panel += kAttentionColumns) {
    const __m512i left = _mm512_loadu_si512(panel), right = _mm512_loadu_si512(panel + Vector::kWidth);
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

}  // namespace
}  // namespace llada

// The transpose of a block of 32-bit lanes, for code that needs a lane of many rows side by side.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "common/bfloat16.h"

namespace llada {
namespace {

// A block of 16 rows x 16 lanes, transposed: result i holds lane i of every row. Halves of rows 4 apart are loaded side
// by side (a masked broadcast costs a load, no shuffle): 32 loads and 48 shuffles keep the ports of both equally busy.
// A row's halves are loaded together: rows of 4 KB all fall into one set of L1, which holds eight lines.
template <int Rows>
LLADA_INLINE void transpose_block(const char* const (&row)[16], std::int64_t byte, __m512i (&out)[16]) {
  __m512i v[2][8];  // row i beside row i + 4, for i = 0..3 and 8..11
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const int r = i % 4 + i / 4 * 8;
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const auto load = [&](int r) LLADA_INLINE_LAMBDA {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row[r] + byte + 32 * half));
      };
      v[half][i] = _mm512_castsi256_si512(load(r));
      if (r + 4 < Rows) v[half][i] = _mm512_mask_broadcast_i64x4(v[half][i], 0xf0, load(r + 4));
    }
  }
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    __m512i columns[2][4];  // of rows 0-7 and 8-15: four of both quarters
#pragma GCC unroll 2
    for (int eight = 0; eight < 2; ++eight) {
      const __m512i* rows = v[half] + 4 * eight;
      const __m512i low01 = _mm512_unpacklo_epi32(rows[0], rows[1]), low23 = _mm512_unpacklo_epi32(rows[2], rows[3]);
      const __m512i high01 = _mm512_unpackhi_epi32(rows[0], rows[1]), high23 = _mm512_unpackhi_epi32(rows[2], rows[3]);
      columns[eight][0] = _mm512_unpacklo_epi64(low01, low23);
      columns[eight][1] = _mm512_unpackhi_epi64(low01, low23);
      columns[eight][2] = _mm512_unpacklo_epi64(high01, high23);
      columns[eight][3] = _mm512_unpackhi_epi64(high01, high23);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      out[8 * half + i] = _mm512_shuffle_i32x4(columns[0][i], columns[1][i], 0x88);
      out[8 * half + 4 + i] = _mm512_shuffle_i32x4(columns[0][i], columns[1][i], 0xdd);
    }
  }
}

}  // namespace
}  // namespace llada

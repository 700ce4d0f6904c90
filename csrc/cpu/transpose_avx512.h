// The transpose of a block of 32-bit lanes, for code that needs a lane of many rows side by side.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "common/bfloat16.h"

namespace llada {
namespace {

// A block of 16 rows x 16 lanes, transposed: result i holds lane i of every row. Quarters of rows 4 apart are loaded
// side by side (a masked broadcast costs a load, no shuffle), which leaves only half of a transpose's shuffles. A row's
// four quarters are loaded together: rows of 4 KB all fall into one set of L1, which holds eight lines.
template <int Rows>
LLADA_INLINE void transpose_block(const char* const (&row)[16], std::int64_t byte, __m512i (&out)[16]) {
  __m512i v[4][4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 4
    for (int quarter = 0; quarter < 4; ++quarter) {
      const auto load = [&](int r) LLADA_INLINE_LAMBDA {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row[r] + byte + 16 * quarter));
      };
      __m512i& rows = v[quarter][i];
      rows = _mm512_castsi128_si512(load(i));
      rows = _mm512_mask_broadcast_i32x4(rows, 0x00f0, load(i + 4));
      rows = _mm512_mask_broadcast_i32x4(rows, 0x0f00, load(i + 8));
      if constexpr (Rows > 12) rows = _mm512_mask_broadcast_i32x4(rows, 0xf000, load(i + 12));
    }
  }
#pragma GCC unroll 4
  for (int quarter = 0; quarter < 4; ++quarter) {
    const __m512i(&rows)[4] = v[quarter];
    const __m512i low01 = _mm512_unpacklo_epi32(rows[0], rows[1]), low23 = _mm512_unpacklo_epi32(rows[2], rows[3]);
    const __m512i high01 = _mm512_unpackhi_epi32(rows[0], rows[1]), high23 = _mm512_unpackhi_epi32(rows[2], rows[3]);
    out[4 * quarter] = _mm512_unpacklo_epi64(low01, low23);
    out[4 * quarter + 1] = _mm512_unpackhi_epi64(low01, low23);
    out[4 * quarter + 2] = _mm512_unpacklo_epi64(high01, high23);
    out[4 * quarter + 3] = _mm512_unpackhi_epi64(high01, high23);
  }
}

}  // namespace
}  // namespace llada

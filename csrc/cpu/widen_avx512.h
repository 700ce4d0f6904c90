// Lanes of two bf16 as floats: their even elements, and their odd ones.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "common/bfloat16.h"

namespace llada {
namespace {

LLADA_INLINE __m512i odd_bits() { return _mm512_set1_epi32(static_cast<int>(0xffff0000u)); }

LLADA_INLINE __m512 widen_even(__m512i lanes) { return _mm512_castsi512_ps(_mm512_slli_epi32(lanes, 16)); }
LLADA_INLINE __m512 widen_odd(__m512i lanes) { return _mm512_castsi512_ps(_mm512_and_si512(lanes, odd_bits())); }

// `count` lanes, which may lie at any byte; up to 15 floats behind theirs are overwritten.
LLADA_INLINE void widen_lanes(const void* lanes, std::int64_t count, float* even, float* odd) {
  const auto* source = static_cast<const char*>(lanes);
  for (std::int64_t i = 0; i < count; i += 16) {
    const auto present = static_cast<__mmask16>(count - i >= 16 ? 0xffff : (1 << (count - i)) - 1);
    const __m512i some = _mm512_maskz_loadu_epi32(present, source + 4 * i);
    _mm512_storeu_ps(even + i, widen_even(some));
    _mm512_storeu_ps(odd + i, widen_odd(some));
  }
}

}  // namespace
}  // namespace llada

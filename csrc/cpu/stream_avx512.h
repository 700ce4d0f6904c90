// How weights that come from memory are read while little is computed with them. Whole lines, prefetched by software,
// outrun Zen 4's own prefetchers; halves of lines without it come up to 14 % faster. From six rows on, arithmetic
// leaves the prefetchers too little room, and software's are better.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "common/bfloat16.h"

namespace llada {
namespace {

constexpr int kStreamedRows = 5;

// In assembly because compilers would join the halves.
LLADA_INLINE __m512i load_halves(const std::uint32_t* lanes) {
  __m512i value = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes)));
  asm("vinserti64x4 $1, %1, %0, %0" : "+v"(value) : "m"(*reinterpret_cast<const std::uint32_t (*)[8]>(lanes + 8)));
  return value;
}

template <int Rows>
LLADA_INLINE __m512i load_weights(const std::uint32_t* lanes) {
  return Rows <= kStreamedRows ? load_halves(lanes) : _mm512_loadu_si512(lanes);
}

// The two lines at `next`, unless the processor's own prefetchers do better. Into L2: while a panel is multiplied with
// two chunks of rows, half of the next one arrives with each and would push panel and rows out of L1.
template <int Rows>
LLADA_INLINE void prefetch_lines(const char* next) {
  if constexpr (Rows > kStreamedRows) {
    _mm_prefetch(next, _MM_HINT_T1);
    _mm_prefetch(next + 64, _MM_HINT_T1);
  }
}

}  // namespace
}  // namespace llada

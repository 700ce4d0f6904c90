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

// The lines that begin in [next, next + step), step <= 128, unless the processor's own prefetchers do better. Into L2:
// while a panel is multiplied with two chunks of rows, half of the next one arrives with each and would push panel and
// rows out of L1.
template <int Rows>
LLADA_INLINE void prefetch_lines(const char* next, std::int64_t step) {
  constexpr std::int64_t kLine = 64;
  if constexpr (Rows > kStreamedRows) {
    if (static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(next) % kLine) < step) {
      _mm_prefetch(next, _MM_HINT_T1);
    }
    if (step > kLine) _mm_prefetch(next + kLine, _MM_HINT_T1);
  }
}

constexpr int kPanelWordsAhead = 512;

// From L2 into L1, what is multiplied soon: with three operand streams the processor's own prefetchers fall behind.
template <int Rows>
LLADA_INLINE void prefetch_operands(const std::uint32_t* panel, const std::uint32_t* rows) {
  constexpr int kRowsWordsAhead = 256;
  if constexpr (Rows > kStreamedRows) {
    _mm_prefetch(panel + kPanelWordsAhead, _MM_HINT_T0);
    _mm_prefetch(panel + kPanelWordsAhead + 16, _MM_HINT_T0);
    _mm_prefetch(rows + kRowsWordsAhead, _MM_HINT_T0);
  }
}

}  // namespace
}  // namespace llada

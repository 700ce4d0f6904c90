#pragma once

#include <immintrin.h>

#include "common/bfloat16.h"

namespace llada {
namespace {

// sum += four products of unsigned and signed bytes. In assembly because gcc 12 copies the accumulators of
// _mm512_dpbusd_epi32 to other registers and back in every step, which halves the speed.
LLADA_INLINE void add_products(__m512i& sum, __m512i unsigned_bytes, __m512i signed_bytes) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_bytes), "v"(signed_bytes));
}

}  // namespace
}  // namespace llada

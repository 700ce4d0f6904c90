// `Vector` on AVX-512: what vector_avx512.h and vector_avx512fma.h share.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "common/bfloat16.h"
#include "cpu/exp2_coefficients.h"
#include "cpu/widen_avx512.h"

namespace llada {
namespace {

// WidenBf16: how lanes of two bf16 are multiplied, by vfmadd after widening or by vdpbf16ps.
template <bool WidenBf16>
struct Avx512Vector {
  using Float = __m512;
  static constexpr int kWidth = 16;
  static constexpr int kTileRows = 12;  // x 2 vectors of accumulators, of 32 registers

  static LLADA_INLINE Float set(float value) { return _mm512_set1_ps(value); }
  static LLADA_INLINE Float load(const float* source) { return _mm512_loadu_ps(source); }
  static LLADA_INLINE void store(float* target, Float value) { _mm512_storeu_ps(target, value); }
  static LLADA_INLINE void stream(float* target, __m512 value) { _mm512_stream_ps(target, value); }
  static void end_stream() { _mm_sfence(); }
  static LLADA_INLINE Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static LLADA_INLINE Float subtract(Float a, Float b) { return _mm512_sub_ps(a, b); }
  static LLADA_INLINE Float multiply(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static LLADA_INLINE Float divide(Float a, Float b) { return _mm512_div_ps(a, b); }
  static LLADA_INLINE Float multiply_add(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static LLADA_INLINE Float keep(std::uint32_t bits, Float a) {  // minus infinity where the bit is zero
    return _mm512_mask_mov_ps(set(-__builtin_inff()), static_cast<__mmask16>(bits), a);
  }
  static LLADA_INLINE std::uint32_t bits_of(const std::uint8_t* bytes) {  // of 32 bytes, which are not zero
    const __m256i loaded = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
    return _mm256_test_epi8_mask(loaded, loaded);
  }
  static LLADA_INLINE Float max(Float a, Float b) { return _mm512_max_ps(a, b); }  // b where either is NaN
  static LLADA_INLINE std::uint32_t at_least(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
  static LLADA_INLINE std::uint32_t above(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
  // Those that have a bit, and where they lie, counted from `first`; what follows them, up to kWidth, is overwritten.
  static LLADA_INLINE void store_kept(float* target, std::int32_t* places, Float a, std::int32_t first,
                                      std::uint32_t bits) {
    const __m512i count = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const auto mask = static_cast<__mmask16>(bits);
    store(target, _mm512_maskz_compress_ps(mask, a));
    _mm512_storeu_si512(places, _mm512_maskz_compress_epi32(mask, _mm512_add_epi32(count, _mm512_set1_epi32(first))));
  }
  // Keys of at least the pivot go to `kept`, others to `below`; returns how many are kept. Seven more may be
  // overwritten.
  static LLADA_INLINE std::int64_t split_keys(const std::uint64_t* keys, std::int64_t count, std::uint64_t pivot,
                                              std::uint64_t* kept, std::uint64_t* below) {
    std::uint64_t* end = kept;
    for (std::int64_t i = 0; i < count; i += 8) {
      const auto valid = static_cast<__mmask8>(count - i >= 8 ? 0xff : (1 << (count - i)) - 1);
      const __m512i some = _mm512_maskz_loadu_epi64(valid, keys + i);
      const __mmask8 large =
          _mm512_mask_cmpge_epu64_mask(valid, some, _mm512_set1_epi64(static_cast<long long>(pivot)));
      const auto small = static_cast<__mmask8>(valid & ~large);
      _mm512_storeu_si512(end, _mm512_maskz_compress_epi64(large, some));
      _mm512_storeu_si512(below, _mm512_maskz_compress_epi64(small, some));
      end += __builtin_popcount(large);
      below += __builtin_popcount(small);
    }
    return end - kept;
  }
  static LLADA_INLINE float reduce_max(Float a) { return _mm512_reduce_max_ps(a); }
  static LLADA_INLINE Float max_of_all(Float a) {  // in every element
    a = _mm512_max_ps(a, _mm512_shuffle_f32x4(a, a, 0x4e));
    a = _mm512_max_ps(a, _mm512_shuffle_f32x4(a, a, 0xb1));
    a = _mm512_max_ps(a, _mm512_permute_ps(a, 0x4e));
    return _mm512_max_ps(a, _mm512_permute_ps(a, 0xb1));
  }
  static LLADA_INLINE float reduce_add(Float a) { return _mm512_reduce_add_ps(a); }
  static LLADA_INLINE void reduce_max_four(Float a, Float b, Float c, Float d, float* highest) {
    const Float ab = _mm512_max_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    const Float cd = _mm512_max_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    Float high = _mm512_max_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    high = _mm512_max_ps(high, _mm512_permute_ps(high, 0x4e));
    high = _mm512_max_ps(high, _mm512_permute_ps(high, 0xb1));
    _mm_storeu_ps(highest, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, high)));
  }

  // 2^x; exactly 0 below 2^-150, NaN for NaN; as precise as Element asks for.
  template <class Element = float>
  static LLADA_INLINE Float exp2(Float x) {
    const Float whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Float part = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);  // 0 for an infinity
    Float sum = set(kExp2Of<Element>[kExp2Degree<Element>]);
    for (int i = kExp2Degree<Element> - 1; i >= 0; --i) sum = multiply_add(sum, part, set(kExp2Of<Element>[i]));
    return _mm512_scalef_ps(sum, whole);
  }

  // kWidth 32-bit lanes of a packed operand: one fp32 or two bf16 each.
  struct Lanes {
    __m512i bits;
  };
  static LLADA_INLINE Lanes load_lanes(const std::uint32_t* source) { return {_mm512_loadu_si512(source)}; }
  static LLADA_INLINE void store_lanes(std::uint32_t* target, Lanes lanes) { _mm512_storeu_si512(target, lanes.bits); }
  // Two rows of bf16: lane i holds element i of `even` in its low half and that of `odd` in its high half.
  static LLADA_INLINE Lanes interleave(const std::uint16_t* even, const std::uint16_t* odd) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even)));
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd)));
    return {_mm512_or_si512(low, _mm512_slli_epi32(high, 16))};
  }
  static LLADA_INLINE Lanes broadcast_lane(const std::uint32_t* source) {
    return {_mm512_set1_epi32(static_cast<int>(*source))};
  }
  template <class Element>
  static LLADA_INLINE Float dot(Float sum, Lanes a, Lanes b) {
    if constexpr (sizeof(Element) == 4) {
      return _mm512_fmadd_ps(_mm512_castsi512_ps(a.bits), _mm512_castsi512_ps(b.bits), sum);
    } else if constexpr (WidenBf16) {
      sum = _mm512_fmadd_ps(widen_even(a.bits), widen_even(b.bits), sum);
      return _mm512_fmadd_ps(widen_odd(a.bits), widen_odd(b.bits), sum);
    } else {
      return _mm512_dpbf16_ps(sum, (__m512bh)a.bits, (__m512bh)b.bits);
    }
  }

  static LLADA_INLINE Float round_to_bfloat16(Float value) {
    const __m512i bits = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(value));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
  }
  static LLADA_INLINE void store_elements(float* target, Float value) { store(target, value); }
  static LLADA_INLINE void store_elements(float* target, Float left, Float right) {
    store(target, left);
    store(target + kWidth, right);
  }
  static LLADA_INLINE void store_elements(bfloat16* target, Float left, Float right) {
    _mm512_storeu_si512(target, (__m512i)_mm512_cvtne2ps_pbh(right, left));
  }
  static LLADA_INLINE void store_elements(bfloat16* target, Float value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), (__m256i)_mm512_cvtneps_pbh(value));
  }
};

}  // namespace
}  // namespace llada

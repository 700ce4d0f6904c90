// Vector operations, 8 floats wide. See vector_avx512.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "common/bfloat16.h"
#include "cpu/exp2_coefficients.h"
#include "cpu/vector_elements.h"

namespace llada {
namespace {

struct Vector {
  using Float = __m256;
  static constexpr int kWidth = 8;
  static constexpr int kTileRows = 4;  // x 2 vectors of accumulators; bf16 halves take 6 more of the 16 registers

  static LLADA_INLINE Float set(float value) { return _mm256_set1_ps(value); }
  static LLADA_INLINE Float load(const float* source) { return _mm256_loadu_ps(source); }
  static LLADA_INLINE void store(float* target, Float value) { _mm256_storeu_ps(target, value); }
  static LLADA_INLINE void stream(float* target, __m256 value) { _mm256_stream_ps(target, value); }
  static void end_stream() { _mm_sfence(); }
  static LLADA_INLINE Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
  static LLADA_INLINE Float subtract(Float a, Float b) { return _mm256_sub_ps(a, b); }
  static LLADA_INLINE Float multiply(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static LLADA_INLINE Float divide(Float a, Float b) { return _mm256_div_ps(a, b); }
  static LLADA_INLINE Float multiply_add(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static LLADA_INLINE Float keep(std::uint32_t bits, Float a) {  // minus infinity where the bit is zero
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i kept = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), bit), bit);
    return _mm256_blendv_ps(set(-__builtin_inff()), a, _mm256_castsi256_ps(kept));
  }
  static LLADA_INLINE std::uint32_t bits_of(const std::uint8_t* bytes) {  // of 32 bytes, which are not zero
    const __m256i loaded = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
    return ~static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(loaded, _mm256_setzero_si256())));
  }
  static LLADA_INLINE Float max(Float a, Float b) { return _mm256_max_ps(a, b); }  // b where either is NaN
  static LLADA_INLINE std::uint32_t at_least(Float a, Float b) {
    return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
  }
  static LLADA_INLINE std::uint32_t above(Float a, Float b) {
    return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)));
  }
  static LLADA_INLINE void store_kept(float* target, std::int32_t* places, Float a, std::int32_t first,
                                      std::uint32_t bits) {
    store_kept_elements<Vector>(target, places, a, first, bits);
  }
  static LLADA_INLINE std::int64_t split_keys(const std::uint64_t* keys, std::int64_t count, std::uint64_t pivot,
                                              std::uint64_t* kept, std::uint64_t* below) {
    return split_each_key(keys, count, pivot, kept, below);
  }
  static LLADA_INLINE Float round_to_bfloat16(Float a) { return round_elements_to_bfloat16<Vector>(a); }
  static LLADA_INLINE float reduce_max(Float a) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
  }
  static LLADA_INLINE Float max_of_all(Float a) { return set(reduce_max(a)); }
  static LLADA_INLINE float reduce_add(Float a) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
  }
  static LLADA_INLINE void reduce_max_four(Float a, Float b, Float c, Float d, float* highest) {
    highest[0] = reduce_max(a);
    highest[1] = reduce_max(b);
    highest[2] = reduce_max(c);
    highest[3] = reduce_max(d);
  }

  // 2^x for x <= 126; exactly 0 below 2^-127, NaN for NaN; as precise as Element asks for.
  template <class Element = float>
  static LLADA_INLINE Float exp2(Float x) {
    x = max(set(kExp2Floor), x);
    const Float whole = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Float part = subtract(x, whole);
    Float sum = set(kExp2Of<Element>[kExp2Degree<Element>]);
    for (int i = kExp2Degree<Element> - 1; i >= 0; --i) sum = multiply_add(sum, part, set(kExp2Of<Element>[i]));
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
    return multiply(sum, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }

  // kWidth 32-bit lanes of a packed operand: one fp32 or two bf16 each.
  struct Lanes {
    __m256i bits;
  };
  static LLADA_INLINE Lanes load_lanes(const std::uint32_t* source) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source))};
  }
  static LLADA_INLINE void store_lanes(std::uint32_t* target, Lanes lanes) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), lanes.bits);
  }
  // Two rows of bf16: lane i holds element i of `even` in its low half and that of `odd` in its high half.
  static LLADA_INLINE Lanes interleave(const std::uint16_t* even, const std::uint16_t* odd) {
    const __m256i low = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(even)));
    const __m256i high = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(odd)));
    return {_mm256_or_si256(low, _mm256_slli_epi32(high, 16))};
  }
  static LLADA_INLINE Lanes broadcast_lane(const std::uint32_t* source) {
    return {_mm256_set1_epi32(static_cast<int>(*source))};
  }
  template <class Element>
  static LLADA_INLINE Float dot(Float sum, Lanes a, Lanes b) {
    if constexpr (sizeof(Element) == 4) {
      return multiply_add(_mm256_castsi256_ps(a.bits), _mm256_castsi256_ps(b.bits), sum);
    } else {
      return multiply_add(high(a), high(b), multiply_add(low(a), low(b), sum));
    }
  }

  template <class Element>
  static LLADA_INLINE void store_elements(Element* target, Float left, Float right) {
    store_elements(target, left);
    store_elements(target + kWidth, right);
  }
  static LLADA_INLINE void store_elements(float* target, Float value) { store(target, value); }
  static LLADA_INLINE void store_elements(bfloat16* target, Float value) {
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_or_si256(bits, _mm256_set1_epi32(0x400000)), nan);
    const __m256i upper = _mm256_srli_epi32(rounded, 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(upper, upper), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm256_castsi256_si128(packed));
  }

 private:
  static LLADA_INLINE Float low(Lanes pair) { return _mm256_castsi256_ps(_mm256_slli_epi32(pair.bits, 16)); }
  static LLADA_INLINE Float high(Lanes pair) {
    return _mm256_castsi256_ps(_mm256_and_si256(pair.bits, _mm256_set1_epi32(-65536)));
  }
};

}  // namespace
}  // namespace llada

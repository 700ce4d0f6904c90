// Vector operations in the compiler's own vector types, 4 floats wide. See vector_avx512.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/bfloat16.h"
#include "cpu/exp2_coefficients.h"
#include "cpu/vector_elements.h"

namespace llada {
namespace {

struct Vector {
  typedef float Float __attribute__((vector_size(16)));
  typedef std::int32_t Int __attribute__((vector_size(16)));
  static constexpr int kWidth = 4;
  static constexpr int kTileRows = 4;

  static LLADA_INLINE Float set(float value) { return Float{value, value, value, value}; }
  static LLADA_INLINE Float load(const float* source) {
    Float value;
    std::memcpy(&value, source, sizeof value);
    return value;
  }
  static LLADA_INLINE void store(float* target, Float value) { std::memcpy(target, &value, sizeof value); }
  static LLADA_INLINE void stream(float* target, Float value) { store(target, value); }
  static void end_stream() {}
  static LLADA_INLINE Float add(Float a, Float b) { return a + b; }
  static LLADA_INLINE Float subtract(Float a, Float b) { return a - b; }
  static LLADA_INLINE Float multiply(Float a, Float b) { return a * b; }
  static LLADA_INLINE Float divide(Float a, Float b) { return a / b; }
  static LLADA_INLINE Float multiply_add(Float a, Float b, Float c) { return a * b + c; }
  static LLADA_INLINE Float keep(std::uint32_t mask, Float a) {  // minus infinity where the bit is zero
    const Int bit = {1, 2, 4, 8}, all = Int{} + static_cast<std::int32_t>(mask & 15);
    return (all & bit) != 0 ? a : set(-__builtin_inff());
  }
  static LLADA_INLINE std::uint32_t bits_of(const std::uint8_t* bytes) {  // of 32 bytes, which are not zero
    std::uint32_t mask = 0;
    for (int i = 0; i < 32; ++i) mask |= static_cast<std::uint32_t>(bytes[i] != 0) << i;
    return mask;
  }
  static LLADA_INLINE Float max(Float a, Float b) { return a > b ? a : b; }  // b where either is NaN
  static LLADA_INLINE std::uint32_t at_least(Float a, Float b) {             // a bit an element
    std::uint32_t bits = 0;
    for (int i = 0; i < kWidth; ++i) bits |= static_cast<std::uint32_t>(a[i] >= b[i]) << i;
    return bits;
  }
  static LLADA_INLINE std::uint32_t above(Float a, Float b) {
    std::uint32_t bits = 0;
    for (int i = 0; i < kWidth; ++i) bits |= static_cast<std::uint32_t>(a[i] > b[i]) << i;
    return bits;
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
    const float left = a[0] > a[1] ? a[0] : a[1], right = a[2] > a[3] ? a[2] : a[3];
    return left > right ? left : right;
  }
  static LLADA_INLINE Float max_of_all(Float a) { return set(reduce_max(a)); }
  static LLADA_INLINE float reduce_add(Float a) { return (a[0] + a[1]) + (a[2] + a[3]); }
  static LLADA_INLINE void reduce_max_four(Float a, Float b, Float c, Float d, float* highest) {
    highest[0] = reduce_max(a);
    highest[1] = reduce_max(b);
    highest[2] = reduce_max(c);
    highest[3] = reduce_max(d);
  }

  // 2^x for x <= 126; exactly 0 below 2^-127, NaN for NaN; as precise as Element asks for.
  template <class Element = float>
  static LLADA_INLINE Float exp2(Float x) {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
    constexpr float kRound = 12582912.0f;
    x = max(set(kExp2Floor), x);
    const Float shifted = x + kRound;
    const Float part = x - (shifted - kRound);
    Float sum = set(kExp2Of<Element>[kExp2Degree<Element>]);
    for (int i = kExp2Degree<Element> - 1; i >= 0; --i) sum = multiply_add(sum, part, set(kExp2Of<Element>[i]));
    const Int exponent = bits(shifted) - bits(set(kRound)) + 127;
    return sum * from_bits(exponent << 23);
  }

  // kWidth 32-bit lanes of a packed operand: one fp32 or two bf16 each.
  struct Lanes {
    Int bits;
  };
  static LLADA_INLINE Lanes load_lanes(const std::uint32_t* source) {
    Lanes lanes;
    std::memcpy(&lanes, source, sizeof lanes);
    return lanes;
  }
  static LLADA_INLINE void store_lanes(std::uint32_t* target, Lanes lanes) {
    std::memcpy(target, &lanes, sizeof lanes);
  }
  // Two rows of bf16: lane i holds element i of `even` in its low half and that of `odd` in its high half.
  static LLADA_INLINE Lanes interleave(const std::uint16_t* even, const std::uint16_t* odd) {
    const Int low{even[0], even[1], even[2], even[3]}, high{odd[0], odd[1], odd[2], odd[3]};
    return {low | high << 16};
  }
  static LLADA_INLINE Lanes broadcast_lane(const std::uint32_t* source) {
    std::int32_t lane;
    std::memcpy(&lane, source, sizeof lane);  // the bytes may have been written as bf16
    return {Int{lane, lane, lane, lane}};
  }
  template <class Element>
  static LLADA_INLINE Float dot(Float sum, Lanes a, Lanes b) {
    if constexpr (sizeof(Element) == 4) {
      return multiply_add(from_bits(a.bits), from_bits(b.bits), sum);
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
    for (int i = 0; i < kWidth; ++i) target[i] = from_float<bfloat16>(value[i]);
  }

 private:
  static LLADA_INLINE Int bits(Float value) { return reinterpret_cast<Int>(value); }
  static LLADA_INLINE Float from_bits(Int value) { return reinterpret_cast<Float>(value); }
  static LLADA_INLINE Float low(Lanes pair) { return from_bits(pair.bits << 16); }
  static LLADA_INLINE Float high(Lanes pair) { return from_bits(pair.bits & -65536); }
};

}  // namespace
}  // namespace llada

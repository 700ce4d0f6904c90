// bfloat16 as a 16-bit integer: the upper half of a float32.
//
// Everything here is force-inlined: the header is compiled once per instruction set, and an out-of-line copy
// built with AVX-512 flags could otherwise be the one the linker keeps for every path.
#pragma once

#include <cstdint>
#include <cstring>

#define LLADA_INLINE inline __attribute__((always_inline))
#define LLADA_INLINE_LAMBDA __attribute__((always_inline))

namespace llada {

struct bfloat16 {
  std::uint16_t bits;
};

LLADA_INLINE float to_float(float value) { return value; }

LLADA_INLINE float to_float(bfloat16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

template <class T>
T from_float(float value);

template <>
LLADA_INLINE float from_float<float>(float value) {
  return value;
}

// Round to nearest, ties to even; NaN stays NaN. Without a branch, so that loops over it vectorise.
template <>
LLADA_INLINE bfloat16 from_float<bfloat16>(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const std::uint32_t quiet = bits | 0x400000u;
  return {static_cast<std::uint16_t>((value != value ? quiet : rounded) >> 16)};
}

}  // namespace llada

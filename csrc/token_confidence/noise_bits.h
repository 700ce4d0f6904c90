// The random bits of Gumbel noise: splitmix64 (Steele, Lea, Flood 2014) over a counter of tokens. Always inlined:
// compiled once per instruction set.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace llada {

inline constexpr std::uint64_t kNoiseTokenStep = 0xd1b54a32d192ed03u;

// The finaliser, but for its last step: x ^ (x >> 31) has as many leading zeros as x, and so have both without their
// last 11 bits.
LLADA_HOST_DEVICE inline __attribute__((always_inline)) std::uint64_t mix_leading_bits(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  return (x ^ (x >> 27)) * 0x94d049bb133111ebu;
}

LLADA_HOST_DEVICE inline __attribute__((always_inline)) std::uint64_t mix_bits(std::uint64_t x) {
  x = mix_leading_bits(x);
  return x ^ (x >> 31);
}

}  // namespace llada

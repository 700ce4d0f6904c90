// The random bits of Gumbel noise: splitmix64 (Steele, Lea, Flood 2014) over a counter of tokens. Always inlined:
// compiled once per instruction set.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace llada {

inline constexpr std::uint64_t kNoiseTokenStep = 0xd1b54a32d192ed03u;

// The finaliser.
LLADA_HOST_DEVICE inline __attribute__((always_inline)) std::uint64_t mix_bits(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace llada

// A caller's mask as bits: part of the tile's body, compiled once per instruction set after cpu/vector_*.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "attention/attention_tile.h"
#include "common/bfloat16.h"

namespace llada {
namespace {

inline AttentionMaskSeen read_mask(const std::uint8_t* const* rows, int num_rows, int count, std::uint32_t* bits) {
  AttentionMaskSeen seen{};
  std::uint32_t all = ~0u;
  const auto take = [&](int m, int word, std::uint32_t read) LLADA_INLINE_LAMBDA {
    bits[m * kAttentionMaskWords + word] = read;
    seen.any[word] |= read;
  };
  for (int m = 0; m < num_rows; ++m) {
    for (int word = 0; word < count / 32; ++word) {
      const std::uint32_t read = Vector::bits_of(rows[m] + word * 32);
      take(m, word, read);
      all &= read;
    }
    const int rest = count % 32;
    if (rest == 0) continue;
    std::uint8_t tail[32] = {};
    std::memcpy(tail, rows[m] + count - rest, rest);
    const std::uint32_t read = Vector::bits_of(tail);
    take(m, count / 32, read);
    all &= read | ~0u << rest;
  }
  seen.all = all == ~0u;
  return seen;
}

}  // namespace
}  // namespace llada

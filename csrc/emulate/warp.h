// Warp collectives: the lanes of a mask meet, the last to arrive computes for all.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "emulate/where.h"

namespace llada::emulate {

inline constexpr std::uint32_t kFullWarp = 0xffffffffu;

// Lanes that meet must agree on mask, operation and place. operands[lane] is what each lane passed. A shuffle or an mma
// orders no memory between lanes, as on the GPU; __syncwarp does.
using WarpOperation = void (*)(std::uint32_t mask, void* const* operands);
void warp_meet(std::uint32_t mask, WarpOperation operation, void* operands, const Where& where);
void warp_sync(std::uint32_t mask, const Where& where);

enum class Shuffle { kIndex, kUp, kDown, kXor };
enum class Reduction { kAddSigned, kMinSigned, kMaxSigned, kMinUnsigned, kMaxUnsigned, kAnd, kOr, kXor };

// A value read from a lane outside the mask is undefined on the GPU: here its bits are all ones.
std::uint64_t warp_shuffle(std::uint32_t mask, Shuffle kind, std::uint64_t value, int argument, int width,
                           const Where& where);
std::uint32_t warp_ballot(std::uint32_t mask, bool predicate, const Where& where);
std::uint32_t warp_match_any(std::uint32_t mask, std::uint64_t value, const Where& where);
std::uint32_t warp_reduce(std::uint32_t mask, Reduction kind, std::uint32_t value, const Where& where);

template <class T>
inline T shuffle(std::uint32_t mask, Shuffle kind, T value, int argument, int width, const Where& where) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = warp_shuffle(mask, kind, bits, argument, width, where);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace llada::emulate

// Up to 16 bytes of neighbouring elements, in one access where their address allows it. What a thread computes does not
// depend on the access: results are the same bits for aligned and unaligned arrays.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/element.h"

namespace llada::cuda {

// Elements from `from` on, zeros from the `count`-th; `aligned` says that `from` is aligned to the whole pack.
template <int kPack, class Element>
__device__ __forceinline__ Vector<Element, kPack> load_pack(const Element* from, std::int64_t count, bool aligned) {
  if (aligned && count >= kPack) return *reinterpret_cast<const Vector<Element, kPack>*>(from);
  Vector<Element, kPack> pack{};
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    if (i < count) pack.elements[i] = from[i];
  }
  return pack;
}

// The first `count` elements of the pack.
template <int kPack, class Element>
__device__ __forceinline__ void store_pack(Element* to, const Vector<Element, kPack>& pack, std::int64_t count,
                                           bool aligned) {
  if (aligned && count >= kPack) {
    *reinterpret_cast<Vector<Element, kPack>*>(to) = pack;
    return;
  }
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    if (i < count) to[i] = pack.elements[i];
  }
}

// Two neighbouring 16-bit elements as the register that holds them, the first in its lower half.
template <class Element>
__device__ __forceinline__ std::uint32_t pack_pair(float first, float second) {
  const Vector<Element, 2> pair{{from_float<Element>(first), from_float<Element>(second)}};
  std::uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

// Whether 16-byte accesses are aligned in rows that lie `row_bytes` apart.
inline bool aligned_rows(const void* rows, std::int64_t row_bytes) {
  return (reinterpret_cast<std::uintptr_t>(rows) | static_cast<std::uintptr_t>(row_bytes)) % 16 == 0;
}

}  // namespace llada::cuda

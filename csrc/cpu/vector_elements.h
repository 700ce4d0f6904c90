// What an instruction set has no instruction for, element by element: for the `Vector` of some vector_*.h.
#pragma once

#include <bit>
#include <cstdint>

#include "common/bfloat16.h"

namespace llada {
namespace {

// Stores the elements that have a bit side by side, and their places, counted from `first`.
template <class Vector>
LLADA_INLINE void store_kept_elements(float* target, std::int32_t* places, typename Vector::Float a, std::int32_t first,
                                      std::uint32_t bits) {
  float values[Vector::kWidth];
  Vector::store(values, a);
  for (; bits != 0; bits &= bits - 1) {
    const int i = std::countr_zero(bits);
    *target++ = values[i];
    *places++ = first + i;
  }
}

// Keys of at least the pivot go to `kept`, others to `below`; returns how many are kept.
LLADA_INLINE std::int64_t split_each_key(const std::uint64_t* keys, std::int64_t count, std::uint64_t pivot,
                                         std::uint64_t* kept, std::uint64_t* below) {
  std::int64_t num_kept = 0;
  for (std::int64_t i = 0; i < count; ++i) {  // without a branch: they cannot be predicted
    const std::uint64_t key = keys[i];
    kept[num_kept] = below[i - num_kept] = key;
    num_kept += key >= pivot;
  }
  return num_kept;
}

template <class Vector>
LLADA_INLINE typename Vector::Float round_elements_to_bfloat16(typename Vector::Float a) {
  float values[Vector::kWidth];
  Vector::store(values, a);
  for (float& value : values) value = to_float(from_float<bfloat16>(value));
  return Vector::load(values);
}

}  // namespace
}  // namespace llada

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

template <class Vector>
LLADA_INLINE typename Vector::Float round_elements_to_bfloat16(typename Vector::Float a) {
  float values[Vector::kWidth];
  Vector::store(values, a);
  for (float& value : values) value = to_float(from_float<bfloat16>(value));
  return Vector::load(values);
}

}  // namespace
}  // namespace llada

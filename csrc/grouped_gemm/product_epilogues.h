// From the sum over depth to an output, before its only rounding, to Output: called with (sum, column) or, where a gate
// and an up row of the weight make one output, with (gate, up).
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/element.h"

namespace llada::cuda {

template <class OutputOfEpilogue>
struct Plain {
  using Output = OutputOfEpilogue;
  static constexpr bool kPaired = false;
  __device__ __forceinline__ float operator()(float sum, std::int64_t) const { return sum; }
};

template <class Element>
struct SwiGlu {
  using Output = Element;
  static constexpr bool kPaired = true;
  __device__ __forceinline__ float operator()(float gate, float up) const { return gate / (1.0f + expf(-gate)) * up; }
};

template <class Element>
struct AddBias {
  using Output = Element;
  static constexpr bool kPaired = false;
  const Element* bias;  // [columns], or null
  std::int64_t columns;
  __device__ __forceinline__ float operator()(float sum, std::int64_t column) const {
    return bias != nullptr && column < columns ? sum + to_float(bias[column]) : sum;
  }
};

}  // namespace llada::cuda

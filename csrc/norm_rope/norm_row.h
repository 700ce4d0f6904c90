// RMS normalisation of one row, rounded to the element type before the weight and after it.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/bfloat16.h"
#include "norm_rope/norm_rope.h"

namespace llada {

// Sixteen partial sums, element i in sum i mod 16, added up pairwise: one order for every row.
template <class Element>
float sum_of_squares(const Element* row, std::int64_t size) {
  constexpr int kSums = 16;
  float sums[kSums] = {};
  std::int64_t i = 0;
  for (; i + kSums <= size; i += kSums) {
    for (int j = 0; j < kSums; ++j) sums[j] += to_float(row[i + j]) * to_float(row[i + j]);
  }
  for (int j = 0; i + j < size; ++j) sums[j] += to_float(row[i + j]) * to_float(row[i + j]);
  for (int half = kSums / 2; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) sums[j] += sums[j + half];
  }
  return sums[0];
}

template <class Element>
void normalise_row(const Element* row, const Element* weight, std::int64_t size, float eps, Element* out) {
  const float inverse = 1.0f / std::sqrt(sum_of_squares(row, size) / static_cast<float>(size) + eps);
  for (std::int64_t i = 0; i < size; ++i) {
    const Element normal = from_float<Element>(to_float(row[i]) * inverse);
    out[i] = from_float<Element>(to_float(normal) * to_float(weight[i]));
  }
}

}  // namespace llada

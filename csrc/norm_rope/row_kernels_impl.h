// The loops themselves, plain enough for the compiler to vectorise with the flags of the file that includes this one.
// All is local to that file: no copy built with AVX-512 can stand in for another's.
#pragma once

#include "common/bfloat16.h"
#include "norm_rope/row_kernels.h"

namespace llada {
namespace {

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

// Rounded to the element type before the weight and after it.
template <class Element>
void normalise(const Element* __restrict row, const Element* __restrict weight, std::int64_t size, float eps,
               Element* __restrict out) {
  const float inverse = 1.0f / __builtin_sqrtf(sum_of_squares(row, size) / static_cast<float>(size) + eps);
  for (std::int64_t i = 0; i < size; ++i) {
    const Element normal = from_float<Element>(to_float(row[i]) * inverse);
    out[i] = from_float<Element>(to_float(normal) * to_float(weight[i]));
  }
}

template <class Element>
void add(const Element* __restrict row, const Element* __restrict residual, std::int64_t size,
         Element* __restrict total) {
  for (std::int64_t i = 0; i < size; ++i) total[i] = from_float<Element>(to_float(row[i]) + to_float(residual[i]));
}

template <class Element>
void norm_row(const NormRowArgs& args) {
  const auto* row = static_cast<const Element*>(args.row);
  if (args.residual != nullptr) {
    auto* total = static_cast<Element*>(args.total);
    add(row, static_cast<const Element*>(args.residual), args.size, total);
    row = total;
  }
  normalise(row, static_cast<const Element*>(args.weight), args.size, args.eps, static_cast<Element*>(args.out));
}

// NaN passes, as in torch.clamp.
template <class Element>
void clamp(Element* row, std::int64_t size, float limit) {
  for (std::int64_t i = 0; i < size; ++i) {
    const float value = to_float(row[i]);
    row[i] = from_float<Element>(value < -limit ? -limit : value > limit ? limit : value);
  }
}

// Each product is rounded before the sum, as in the published code.
template <class Element>
void rotate(const Element* __restrict head, const float* __restrict cosines, const float* __restrict sines,
            std::int64_t half, Element* __restrict out) {
  const auto rounded = [](float value) { return to_float(from_float<Element>(value)); };
  for (std::int64_t i = 0; i < half; ++i) {
    const float first = to_float(head[i]), second = to_float(head[i + half]);
    out[i] = from_float<Element>(rounded(first * cosines[i]) - rounded(second * sines[i]));
    out[i + half] = from_float<Element>(rounded(second * cosines[i]) + rounded(first * sines[i]));
  }
}

template <class Element>
void rotate_head(const RotateHeadArgs& args) {
  const auto* head = static_cast<const Element*>(args.head);
  auto* buffer = static_cast<Element*>(args.buffer);
  if (args.weight != nullptr) {
    normalise(head, static_cast<const Element*>(args.weight), args.depth, args.eps, buffer);
  } else {
    __builtin_memcpy(buffer, head, args.depth * sizeof(Element));
  }
  if (args.clip < __builtin_inff()) clamp(buffer, args.depth, args.clip);
  auto* out = static_cast<Element*>(args.out);
  rotate(buffer, args.cosines, args.sines, args.half, out);
  const std::int64_t turned = 2 * args.half;
  __builtin_memcpy(out + turned, buffer + turned, (args.depth - turned) * sizeof(Element));
}

template <class Element>
constexpr RowKernels kRowKernels{norm_row<Element>, rotate_head<Element>};

}  // namespace
}  // namespace llada

#include "cpu/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "common/bfloat16.h"
#include "cpu/thread_scratch.h"

namespace llada {
namespace {

constexpr float kLargestByte = 127.0f, kLowestDigit = -8.0f, kHighestDigit = 7.0f;

void load_row(DType dtype, const void* row, std::int64_t k, float* values) {
  if (row == nullptr) {
    std::fill_n(values, k, 0.0f);
  } else if (dtype == DType::kFloat32) {
    std::memcpy(values, row, k * sizeof(float));
  } else {
    for (std::int64_t i = 0; i < k; ++i) values[i] = to_float(static_cast<const bfloat16*>(row)[i]);
  }
}

// Infinity if any value is not finite. Magnitudes are compared as integers, which order alike and, unlike a maximum of
// floats, vectorise.
float largest_magnitude(const float* values, std::int64_t count) {
  std::int32_t largest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    largest = std::max(largest, std::bit_cast<std::int32_t>(values[i]) & std::numeric_limits<std::int32_t>::max());
  }
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  return largest < std::bit_cast<std::int32_t>(kInfinity) ? std::bit_cast<float>(largest) : kInfinity;
}

// 0 for rows so small that they count as zeros.
float inverse_of(float scale) { return scale > 0x1p-120f ? 1.0f / scale : 0.0f; }

constexpr int kWidth = 4;
using Floats = float __attribute__((vector_size(kWidth * sizeof(float))));  // what every processor of a kind has

#if defined(__SSE__)  // gcc does not find these two instructions behind comparisons
Floats smaller(Floats a, Floats b) { return _mm_min_ps(a, b); }
Floats larger(Floats a, Floats b) { return _mm_max_ps(a, b); }
#else
Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
Floats larger(Floats a, Floats b) { return a > b ? a : b; }
#endif

float bounded(float value, float low, float high) { return std::min(high, std::max(low, value)); }

Floats bounded(Floats value, float low, float high) { return smaller(larger(value, Floats{} + low), Floats{} + high); }

// An integer of [low, high]; low for NaN. Adding 1.5 * 2^23 rounds to nearest, ties to even, in a loop that vectorises.
template <class Value>
Value round_to(Value value, float low, float high) {
  constexpr float kRound = 12582912.0f;
  return bounded((value + kRound) - kRound, low, high);
}

void int8_column(const float* values, std::int64_t k, int column, std::uint32_t* panel) {
  const std::int64_t lanes = row_lanes(PanelFormat::kInt8, k);
  const float scale = largest_magnitude(values, k) / kLargestByte, inverse = inverse_of(scale);
  for (std::int64_t lane = 0; lane < lanes; ++lane) {
    std::int32_t digits[4];
    for (int i = 0; i < 4; ++i) {
      digits[i] = static_cast<int>(round_to(values[lane * 4 + i] * inverse, -kLargestByte, kLargestByte)) + 128;
    }
    panel[lane * kPanelColumns + column] =
        static_cast<std::uint32_t>(digits[0] | digits[1] << 8 | digits[2] << 16 | digits[3] << 24);
  }
  std::memcpy(panel + lanes * kPanelColumns + column, &scale, sizeof scale);
}

// The step at which the digits -8 .. 7 just reach the lowest and the highest of finite values.
float reaching_step(const float* values, std::int64_t count) {
  if (count == 0) return 0.0f;
  Floats lowest = Floats{} + values[0], highest = lowest;
  for (std::int64_t i = 0; i < count; i += kWidth) {
    Floats next;
    std::memcpy(&next, values + i, sizeof next);
    lowest = smaller(next, lowest);
    highest = larger(next, highest);
  }
  float low = lowest[0], high = highest[0];
  for (int i = 1; i < kWidth; ++i) {
    low = std::min(low, lowest[i]);
    high = std::max(high, highest[i]);
  }
  return std::max(low / kLowestDigit, high / kHighestDigit);
}

// A larger multiplier clips less and rounds more coarsely: the best lies near the one that just reaches the largest.
// All that may be best are tried side by side, so that the sums of their errors vectorise in the order of k; per unit,
// or the squares would not fit a float for very small or large weights.
int best_multiplier(const float* values, float scale, float per_unit) {
  if (inverse_of(scale) == 0.0f) return 1;
  const float reach = reaching_step(values, kInt4Group) / scale;
  const int first = std::clamp(static_cast<int>(reach * 0.5f), 1, kLargestMultiplier);
  const int last = std::clamp(static_cast<int>(reach * 1.3f) + 1, 1, kLargestMultiplier);
  constexpr int kCandidates = 12, kVectors = kCandidates / kWidth;  // of a reach of 11.6: 5 .. 16
  Floats steps[kVectors], inverses[kVectors], sums[kVectors] = {};
  for (int candidate = 0; candidate < kCandidates; ++candidate) {
    const float step = scale * per_unit * static_cast<float>(first + candidate);
    steps[candidate / kWidth][candidate % kWidth] = step;
    inverses[candidate / kWidth][candidate % kWidth] = 1.0f / step;
  }
  for (std::int64_t i = 0; i < kInt4Group; ++i) {
    const Floats value = Floats{} + values[i] * per_unit;
    for (int v = 0; v < kVectors; ++v) {
      const Floats difference = value - steps[v] * round_to(value * inverses[v], kLowestDigit, kHighestDigit);
      sums[v] += difference * difference;
    }
  }
  int best = last;
  float least = std::numeric_limits<float>::infinity();
  for (int candidate = 0; candidate <= last - first; ++candidate) {
    const float error = sums[candidate / kWidth][candidate % kWidth];
    if (error < least) {
      least = error;
      best = first + candidate;
    }
  }
  return best;
}

// `values` is padded with zeros to whole blocks.
void int4_column(const float* values, std::int64_t blocks, int column, std::uint32_t* panel) {
  constexpr std::int64_t kBlock = 2 * kInt4Group;
  const bool finite = std::isfinite(largest_magnitude(values, blocks * kBlock));
  const float scale =
      finite ? reaching_step(values, blocks * kBlock) / kLargestMultiplier : std::numeric_limits<float>::infinity();
  // The unit is a power of two near the scale: no bit is lost.
  const float per_unit = inverse_of(scale) == 0.0f ? 1.0f : std::ldexp(1.0f, -std::ilogb(scale));
  for (std::int64_t group = 0; group < 2 * blocks; ++group, values += kInt4Group) {
    std::uint32_t* block = panel + group / 2 * kInt4BlockWords;
    const int multiplier = finite ? best_multiplier(values, scale, per_unit) : 1;
    reinterpret_cast<std::uint8_t*>(block)[group % 2 * kPanelColumns + column] = static_cast<std::uint8_t>(multiplier);
    const float inverse = inverse_of(scale) / static_cast<float>(multiplier);
    for (std::int64_t lane = 0; lane < kInt4Group / 8; ++lane) {
      std::uint32_t nibbles = 0;
      for (int i = 0; i < 8; ++i) {
        const float digit = round_to(values[lane * 8 + i] * inverse, kLowestDigit, kHighestDigit);
        nibbles |= static_cast<std::uint32_t>(static_cast<int>(digit) + 8) << (i % 4 * 8 + i / 4 * 4);
      }
      block[16 + (group % 2 * 4 + lane) * kPanelColumns + column] = nibbles;
    }
  }
  std::memcpy(panel + blocks * kInt4BlockWords + column, &scale, sizeof scale);
}

}  // namespace

void quantize_panel(PanelFormat format, DType dtype, const void* const (&rows)[kPanelColumns], std::int64_t k,
                    std::uint32_t* panel) {
  const std::int64_t padded = row_lanes(format, k) * 4;
  auto* values = thread_scratch<struct QuantizeScratch, float>(std::max<std::int64_t>(padded, 1));
  for (int column = 0; column < kPanelColumns; ++column) {
    load_row(dtype, rows[column], k, values);
    std::fill(values + k, values + padded, 0.0f);
    if (format == PanelFormat::kInt8) {
      int8_column(values, k, column, panel);
    } else {
      int4_column(values, padded / (2 * kInt4Group), column, panel);
    }
  }
}

}  // namespace llada

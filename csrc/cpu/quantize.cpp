#include "cpu/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

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

// Infinity if any value is not finite.
float largest_magnitude(const float* values, std::int64_t count) {
  float largest = 0.0f;
  bool finite = true;
  for (std::int64_t i = 0; i < count; ++i) {
    const float magnitude = std::fabs(values[i]);
    finite = finite && std::isfinite(magnitude);
    largest = std::max(largest, magnitude);
  }
  return finite ? largest : std::numeric_limits<float>::infinity();
}

// 0 for rows so small that they count as zeros.
float inverse_of(float scale) { return scale > 0x1p-120f ? 1.0f / scale : 0.0f; }

// An integer of [low, high]; low for NaN. Adding 1.5 * 2^23 rounds to nearest, ties to even, in a loop that vectorises.
float round_to(float value, float low, float high) {
  constexpr float kRound = 12582912.0f;
  return std::min(high, std::max(low, (value + kRound) - kRound));
}

void int8_column(const float* values, std::int64_t k, int column, std::uint32_t* panel) {
  const std::int64_t lanes = row_lanes(PanelFormat::kInt8, k);
  const float scale = largest_magnitude(values, k) / kLargestByte, inverse = inverse_of(scale);
  auto* bytes = reinterpret_cast<std::uint8_t*>(panel) + column * 4;
  for (std::int64_t i = 0; i < lanes * 4; ++i) {
    const float digit = i < k ? round_to(values[i] * inverse, -kLargestByte, kLargestByte) : 0.0f;
    bytes[i / 4 * kPanelColumns * 4 + i % 4] = static_cast<std::uint8_t>(static_cast<int>(digit) + 128);
  }
  std::memcpy(panel + lanes * kPanelColumns + column, &scale, sizeof scale);
}

float group_error(const float* values, float step, float inverse) {
  float error = 0.0f;
  for (std::int64_t i = 0; i < kInt4Group; ++i) {
    const float difference = values[i] - step * round_to(values[i] * inverse, kLowestDigit, kHighestDigit);
    error += difference * difference;
  }
  return error;
}

// The step at which the digits -8 .. 7 just reach the lowest and the highest value; infinity if a value is not finite.
float reaching_step(const float* values, std::int64_t count) {
  if (!std::isfinite(largest_magnitude(values, count))) return std::numeric_limits<float>::infinity();
  const auto [lowest, highest] = std::minmax_element(values, values + count);
  return count == 0 ? 0.0f : std::max(*lowest / kLowestDigit, *highest / kHighestDigit);
}

// A larger multiplier clips less and rounds more coarsely: the best lies near the one that just reaches the largest.
int best_multiplier(const float* values, float scale) {
  if (inverse_of(scale) == 0.0f) return 1;
  const float reach = reaching_step(values, kInt4Group) / scale;
  const int first = std::clamp(static_cast<int>(reach * 0.5f), 1, kLargestMultiplier);
  const int last = std::clamp(static_cast<int>(reach * 1.3f) + 1, 1, kLargestMultiplier);
  int best = last;
  float least = std::numeric_limits<float>::infinity();
  for (int multiplier = first; multiplier <= last; ++multiplier) {
    const float step = scale * static_cast<float>(multiplier), error = group_error(values, step, 1.0f / step);
    if (error < least) {
      least = error;
      best = multiplier;
    }
  }
  return best;
}

// `values` is padded with zeros to whole blocks.
void int4_column(const float* values, std::int64_t blocks, int column, std::uint32_t* panel) {
  constexpr std::int64_t kBlock = 2 * kInt4Group;
  const float scale = reaching_step(values, blocks * kBlock) / kLargestMultiplier;
  for (std::int64_t group = 0; group < 2 * blocks; ++group, values += kInt4Group) {
    std::uint32_t* block = panel + group / 2 * kInt4BlockWords;
    const int multiplier = std::isfinite(scale) ? best_multiplier(values, scale) : 1;
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

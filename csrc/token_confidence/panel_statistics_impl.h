// The bodies of panel_statistics.h over the `Vector` that the including file has chosen.
#pragma once

#include <limits>

#include "common/bfloat16.h"
#include "cpu/panel_gemm.h"
#include "token_confidence/noise_bits.h"
#include "token_confidence/panel_statistics.h"

namespace llada {
namespace {

void round_to_bfloat16(float* tile, int rows) {
  for (int i = 0; i < rows * kPanelColumns; ++i) tile[i] = to_float(from_float<bfloat16>(tile[i]));
}

void highest(const float* tile, int rows, float* highest) {
  for (int r = 0; r < rows; ++r, tile += kPanelColumns) {
    auto high = Vector::load(tile);
    for (int c = Vector::kWidth; c < kPanelColumns; c += Vector::kWidth) {
      high = Vector::max(Vector::load(tile + c), high);
    }
    highest[r] = Vector::reduce_max(high);
  }
}

// Minus infinity becomes a difference whose power is exactly zero.
constexpr float kFloor = -100.0f;

struct PowerVectors {
  Vector::Float sum, weighted;
};

LLADA_INLINE PowerVectors power_vectors(const float* logits, float reference) {
  const auto origin = Vector::set(reference);
  PowerVectors powers{Vector::set(0.0f), Vector::set(0.0f)};
  for (int c = 0; c < kPanelColumns; c += Vector::kWidth) {
    const auto difference = Vector::max(Vector::set(kFloor), Vector::subtract(Vector::load(logits + c), origin));
    const auto power = Vector::exp2(Vector::multiply(difference, Vector::set(kLog2E)));
    powers.sum = Vector::add(powers.sum, power);
    powers.weighted = Vector::multiply_add(difference, power, powers.weighted);
  }
  return powers;
}

void power_sums(const float* tile, int rows, const float* references, PowerSums* sums) {
  static_assert(sizeof(PowerSums) == 2 * sizeof(float));
  int r = 0;
  for (; r + 2 <= rows; r += 2, tile += 2 * kPanelColumns) {
    const PowerVectors a = power_vectors(tile, references[r]);
    const PowerVectors b = power_vectors(tile + kPanelColumns, references[r + 1]);
    float four[4];
    Vector::reduce_add_four(a.sum, a.weighted, b.sum, b.weighted, four);
    sums[r] = {four[0], four[1]};
    sums[r + 1] = {four[2], four[3]};
  }
  if (r == rows) return;
  const PowerVectors last = power_vectors(tile, references[r]);
  sums[r] = {Vector::reduce_add(last.sum), Vector::reduce_add(last.weighted)};
}

LLADA_INLINE Vector::Float scaled_power_vector(const float* logits, float reference, float scale) {
  auto sum = Vector::set(0.0f);
  for (int c = 0; c < kPanelColumns; c += Vector::kWidth) {
    const auto difference = Vector::subtract(Vector::load(logits + c), Vector::set(reference));
    const auto scaled = Vector::max(Vector::set(kFloor), Vector::multiply(difference, Vector::set(scale)));
    sum = Vector::add(sum, Vector::exp2(Vector::multiply(scaled, Vector::set(kLog2E))));
  }
  return sum;
}

void scaled_power_sums(const float* tile, int rows, const float* references, const float* scales, float* sums) {
  const auto of = [&](int r) LLADA_INLINE_LAMBDA {
    return scaled_power_vector(tile + r * kPanelColumns, references[r], scales[r]);
  };
  int r = 0;
  for (; r + 4 <= rows; r += 4) Vector::reduce_add_four(of(r), of(r + 1), of(r + 2), of(r + 3), sums + r);
  for (; r < rows; ++r) sums[r] = Vector::reduce_add(of(r));
}

void lowest_noise_bits(const std::uint64_t* counters, int rows, std::uint64_t* lowest) {
  for (int r = 0; r < rows; ++r) {
    std::int64_t low = std::numeric_limits<std::int64_t>::max();
    for (int c = 0; c < kPanelColumns; ++c) {
      const auto bits = static_cast<std::int64_t>(mix_leading_bits(counters[r] + c * kNoiseTokenStep) >> 11);
      low = bits < low ? bits : low;
    }
    lowest[r] = static_cast<std::uint64_t>(low);
  }
}

std::uint32_t at_least(const float* logits, float least) {
  std::uint32_t bits = 0;
  for (int c = 0; c < kPanelColumns; c += Vector::kWidth) {
    bits |= Vector::at_least(Vector::load(logits + c), Vector::set(least)) << c;
  }
  return bits;
}

void keep(float* logits, std::uint32_t bits) {
  for (int c = 0; c < kPanelColumns; ++c)
    logits[c] = bits >> c & 1 ? logits[c] : -std::numeric_limits<float>::infinity();
}

constexpr PanelStatistics kPanelStatistics = {&round_to_bfloat16, &highest,  &power_sums, &scaled_power_sums,
                                              &lowest_noise_bits, &at_least, &keep};

}  // namespace
}  // namespace llada

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

void power_sums(const float* tile, int rows, const float* references, PowerSums* sums) {
  for (int r = 0; r < rows; ++r, tile += kPanelColumns) {
    const auto origin = Vector::set(references[r]);
    auto sum = Vector::set(0.0f), weighted = sum;
    for (int c = 0; c < kPanelColumns; c += Vector::kWidth) {
      const auto difference = Vector::max(Vector::set(kFloor), Vector::subtract(Vector::load(tile + c), origin));
      const auto power = Vector::exp2(Vector::multiply(difference, Vector::set(kLog2E)));
      sum = Vector::add(sum, power);
      weighted = Vector::multiply_add(difference, power, weighted);
    }
    sums[r] = {Vector::reduce_add(sum), Vector::reduce_add(weighted)};
  }
}

void scaled_power_sums(const float* tile, int rows, const float* references, const float* scales, float* sums) {
  for (int r = 0; r < rows; ++r, tile += kPanelColumns) {
    const auto origin = Vector::set(references[r]), scale = Vector::set(scales[r]);
    auto sum = Vector::set(0.0f);
    for (int c = 0; c < kPanelColumns; c += Vector::kWidth) {
      const auto difference = Vector::subtract(Vector::load(tile + c), origin);
      const auto scaled = Vector::max(Vector::set(kFloor), Vector::multiply(difference, scale));
      sum = Vector::add(sum, Vector::exp2(Vector::multiply(scaled, Vector::set(kLog2E))));
    }
    sums[r] = Vector::reduce_add(sum);
  }
}

void lowest_noise_bits(const std::uint64_t* counters, int rows, std::uint64_t* lowest) {
  for (int r = 0; r < rows; ++r) {
    std::int64_t low = std::numeric_limits<std::int64_t>::max();
    for (int c = 0; c < kPanelColumns; ++c) {
      const auto bits = static_cast<std::int64_t>(mix_bits(counters[r] + c * kNoiseTokenStep) >> 11);
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

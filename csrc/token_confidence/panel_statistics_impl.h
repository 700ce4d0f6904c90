// The bodies of panel_statistics.h over the `Vector` that the including file has chosen.
#pragma once

#include <limits>

#include "common/bfloat16.h"
#include "cpu/panel_gemm.h"
#include "token_confidence/noise_bits.h"
#include "token_confidence/panel_statistics.h"

namespace llada {
namespace {

void round_to_bfloat16(float* logits) {
  for (int c = 0; c < kPanelColumns; ++c) logits[c] = to_float(from_float<bfloat16>(logits[c]));
}

float highest(const float* logits) {
  auto high = Vector::load(logits);
  for (int c = Vector::kWidth; c < kPanelColumns; c += Vector::kWidth) {
    high = Vector::max(Vector::load(logits + c), high);
  }
  return Vector::reduce_max(high);
}

std::uint32_t at_least(const float* logits, float least) {
  std::uint32_t bits = 0;
  for (int c = 0; c < kPanelColumns; ++c) bits |= static_cast<std::uint32_t>(logits[c] >= least) << c;
  return bits;
}

void keep(float* logits, std::uint32_t bits) {
  for (int c = 0; c < kPanelColumns; ++c)
    logits[c] = bits >> c & 1 ? logits[c] : -std::numeric_limits<float>::infinity();
}

PowerSums power_sums(const float* logits, float reference) {
  // Minus infinity becomes a difference whose power is exactly zero.
  const auto origin = Vector::set(reference), floor = Vector::set(-100.0f), log2e = Vector::set(kLog2E);
  auto sum = Vector::set(0.0f), weighted = sum;
  for (int c = 0; c < kPanelColumns; c += Vector::kWidth) {
    const auto difference = Vector::max(floor, Vector::subtract(Vector::load(logits + c), origin));
    const auto power = Vector::exp2(Vector::multiply(difference, log2e));
    sum = Vector::add(sum, power);
    weighted = Vector::multiply_add(difference, power, weighted);
  }
  return {Vector::reduce_add(sum), Vector::reduce_add(weighted)};
}

float scaled_power_sum(const float* logits, float reference, float scale) {
  const auto origin = Vector::set(reference), floor = Vector::set(-100.0f), log2e = Vector::set(kLog2E);
  auto sum = Vector::set(0.0f);
  for (int c = 0; c < kPanelColumns; c += Vector::kWidth) {
    const auto difference = Vector::subtract(Vector::load(logits + c), origin);
    const auto scaled = Vector::max(floor, Vector::multiply(difference, Vector::set(scale)));
    sum = Vector::add(sum, Vector::exp2(Vector::multiply(scaled, log2e)));
  }
  return Vector::reduce_add(sum);
}

std::uint64_t lowest_noise_bits(std::uint64_t counter) {
  std::int64_t lowest = std::numeric_limits<std::int64_t>::max();
  for (int c = 0; c < kPanelColumns; ++c) {
    const auto bits = static_cast<std::int64_t>(mix_bits(counter + c * kNoiseTokenStep) >> 11);
    lowest = bits < lowest ? bits : lowest;
  }
  return static_cast<std::uint64_t>(lowest);
}

constexpr PanelStatistics kPanelStatistics = {&round_to_bfloat16, &highest,          &at_least,         &keep,
                                              &power_sums,        &scaled_power_sum, &lowest_noise_bits};

}  // namespace
}  // namespace llada

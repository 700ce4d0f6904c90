// The bodies of panel_statistics.h over the `Vector` that the including file has chosen.
#pragma once

#include "common/bfloat16.h"
#include "cpu/panel_gemm.h"
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

constexpr PanelStatistics kPanelStatistics = {&round_to_bfloat16, &highest, &power_sums};

}  // namespace
}  // namespace llada

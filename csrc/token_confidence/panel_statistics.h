// What one panel of a row's logits adds to its distribution: written once, compiled for each instruction set.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace llada {

// Of e^(l - reference), and of (l - reference) e^(l - reference).
struct PowerSums {
  float sum, weighted;
};

// Each on a panel's 32 logits of one row.
struct PanelStatistics {
  void (*round_to_bfloat16)(float* logits);
  // NaN is not higher than a number; the sums report it.
  float (*highest)(const float* logits);
  // A bit for each logit of at least that.
  std::uint32_t (*at_least)(const float* logits, float least);
  // Makes logits minus infinity that have no bit.
  void (*keep)(float* logits, std::uint32_t bits);
  // Minus infinity adds exactly nothing.
  PowerSums (*power_sums)(const float* logits, float reference);
  // Of e^((l - reference) * scale), likewise.
  float (*scaled_power_sum)(const float* logits, float reference, float scale);
  // The smallest GumbelStream::bits of 32 tokens, from the counter of the first.
  std::uint64_t (*lowest_noise_bits)(std::uint64_t counter);
};

const PanelStatistics& select_panel_statistics(Isa isa);

const PanelStatistics& panel_statistics_portable();
const PanelStatistics& panel_statistics_avx2();
const PanelStatistics& panel_statistics_avx512();

}  // namespace llada

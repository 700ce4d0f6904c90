// The smallest set of most probable tokens that has a share top_p of a row's mass, the sum of e^(l / temperature).
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "token_confidence/panel_statistics.h"

namespace llada {

// The mass of tokens that stream by, relative to that of the likeliest of them.
class Mass {
 public:
  // Adds a panel's logits; `highest` is that of them.
  void add(const float* logits, float highest, double temperature, const PanelStatistics& statistics);
  void merge(const Mass& other, double temperature);

  double sum() const { return sum_; }

 private:
  void raise(float maximum, double temperature);

  float maximum_ = -std::numeric_limits<float>::infinity();
  double sum_ = 0.0;
};

// That of keys, relative to the first, which is the largest.
double mass_of(std::span<const std::uint64_t> keys, double temperature);

// How many of the keys, the largest first, come before their mass reaches `target`, that of the last of them included;
// one more than there are if it does not.
std::size_t nucleus_size(std::span<const std::uint64_t> keys, double temperature, double target);

}  // namespace llada

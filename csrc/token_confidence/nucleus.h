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
  Mass() = default;
  Mass(float maximum, double sum) : maximum_(maximum), sum_(sum) {}

  void merge(const Mass& other, double temperature);

  double sum() const { return sum_; }

 private:
  float maximum_ = -std::numeric_limits<float>::infinity();
  double sum_ = 0.0;
};

// Those of a tile's rows, while panels are added.
struct alignas(64) MassLanes {
  void clear();
  // Before a panel's sum is added, a higher logit than those before.
  void raise(int lane, float highest, double temperature);
  Mass at(int lane) const;

  float maximum[kRowLanes], reference[kRowLanes];  // what sums are relative to: 0 while there is no maximum
  RowSums sum;
};

// How far below the likeliest token those of the nucleus are at most: were all other tokens as likely as one further
// below, they would not have a share 1 - top_p.
double nucleus_depth(double top_p, std::int64_t vocabulary, double temperature);

// That of keys, relative to the first, which is the largest.
double mass_of(std::span<const std::uint64_t> keys, double temperature);

// How many of the keys, the largest first, come before their mass reaches `target`, that of the last of them included;
// one more than there are if it does not.
std::size_t nucleus_size(std::span<const std::uint64_t> keys, double temperature, double target);

}  // namespace llada

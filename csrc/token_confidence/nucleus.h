// The smallest set of most probable tokens that has a share top_p of a row's mass, the sum of e^(l / temperature).
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

namespace llada {

// By which logits are multiplied, as a float.
inline float mass_scale(double temperature) { return static_cast<float>(std::min(1.0 / temperature, 1e30)); }

// The mass of tokens that stream by, relative to that of the likeliest of them.
class Mass {
 public:
  // Before a panel's sum is added, the highest of its logits; returns what the sum is relative to.
  float raise(float highest, double temperature) {
    if (highest > maximum_) raise_maximum(highest, temperature);
    return maximum_ == -std::numeric_limits<float>::infinity() ? 0.0f : maximum_;
  }
  void add(float panel) { sum_ += panel; }
  void merge(const Mass& other, double temperature);

  double sum() const { return sum_; }

 private:
  void raise_maximum(float highest, double temperature);

  float maximum_ = -std::numeric_limits<float>::infinity();
  double sum_ = 0.0;
};

// That of keys, relative to the first, which is the largest.
double mass_of(std::span<const std::uint64_t> keys, double temperature);

// How many of the keys, the largest first, come before their mass reaches `target`, that of the last of them included;
// one more than there are if it does not.
std::size_t nucleus_size(std::span<const std::uint64_t> keys, double temperature, double target);

}  // namespace llada

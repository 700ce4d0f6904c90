#include "token_confidence/nucleus.h"

#include <algorithm>
#include <cmath>

#include "token_confidence/choice_key.h"

namespace llada {
namespace {

double relative_mass(std::uint64_t key, std::uint64_t largest, double temperature) {
  return std::exp((static_cast<double>(logit_of(key)) - logit_of(largest)) / temperature);
}

}  // namespace

void Mass::merge(const Mass& other, double temperature) {
  const float high = std::max(maximum_, other.maximum_);
  const auto moved = [&](const Mass& part) {
    if (part.maximum_ == high || part.sum_ == 0.0) return part.sum_;
    return part.sum_ * std::exp((static_cast<double>(part.maximum_) - high) / temperature);
  };
  sum_ = moved(*this) + moved(other);
  maximum_ = high;
}

void MassLanes::clear() {
  for (int lane = 0; lane < kRowLanes; ++lane) {
    maximum[lane] = -std::numeric_limits<float>::infinity();
    reference[lane] = 0.0f;
  }
  sum = {};
}

void MassLanes::raise(int lane, float highest, double temperature) {
  if (maximum[lane] > -std::numeric_limits<float>::infinity()) {
    sum.settle_row(lane);
    sum.settled[lane] *= std::exp((static_cast<double>(maximum[lane]) - highest) / temperature);
  }
  maximum[lane] = reference[lane] = highest;
}

Mass MassLanes::at(int lane) const { return {maximum[lane], sum.of(lane)}; }

double nucleus_depth(double top_p, std::int64_t vocabulary, double temperature) {
  constexpr double kRounding = 0.01;  // of masses
  return temperature * (std::log(static_cast<double>(vocabulary) / (1.0 - top_p)) + kRounding);
}

double mass_of(std::span<const std::uint64_t> keys, double temperature) {
  double sum = 0.0;
  for (const std::uint64_t key : keys) sum += relative_mass(key, keys[0], temperature);
  return sum;
}

std::size_t nucleus_size(std::span<const std::uint64_t> keys, double temperature, double target) {
  double mass = 0.0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    mass += relative_mass(keys[i], keys[0], temperature);
    if (mass >= target) return i + 1;
  }
  return keys.size() + 1;
}

}  // namespace llada

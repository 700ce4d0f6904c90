#include "token_confidence/nucleus.h"

#include <cmath>

#include "token_confidence/choice_key.h"

namespace llada {
namespace {

double relative_mass(std::uint64_t key, std::uint64_t largest, double temperature) {
  return std::exp((static_cast<double>(logit_of(key)) - logit_of(largest)) / temperature);
}

}  // namespace

void Mass::raise(float highest, double temperature) {
  if (!(highest > maximum_)) return;
  if (sum_ != 0.0) sum_ *= std::exp((static_cast<double>(maximum_) - highest) / temperature);
  maximum_ = highest;
}

void Mass::merge(const Mass& other, double temperature) {
  Mass later = other;
  raise(later.maximum_, temperature);
  later.raise(maximum_, temperature);
  sum_ += later.sum_;
}

void MassLanes::clear() {
  for (int lane = 0; lane < kRowLanes; ++lane) {
    maximum[lane] = -std::numeric_limits<float>::infinity();
    reference[lane] = 0.0f;
    sum[lane] = 0.0;
  }
}

void MassLanes::raise(int lane, float highest, double temperature) {
  Mass mass = at(lane);
  mass.raise(highest, temperature);
  maximum[lane] = reference[lane] = highest;
  sum[lane] = mass.sum_;
}

Mass MassLanes::at(int lane) const { return {maximum[lane], sum[lane]}; }

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

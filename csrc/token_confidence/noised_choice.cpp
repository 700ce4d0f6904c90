#include "token_confidence/noised_choice.h"

#include <cmath>

namespace llada {

float NoisedChoice::least(const RowNoise& noise, std::uint64_t bits) const {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr double kRounding = 1e-12;
  if (noise.temperature == 0.0) return kInfinity;
  const double best = value_.load(std::memory_order_relaxed);
  const double most = noise.temperature * GumbelStream::noise_limit(bits);
  return std::nextafter(static_cast<float>(best - most - kRounding * (std::abs(best) + most)), -kInfinity);
}

float NoisedChoice::value_below() const {
  constexpr double kRounding = 1e-6;
  const double best = value_.load(std::memory_order_relaxed);
  return static_cast<float>(best - kRounding * std::abs(best));
}

void NoisedChoice::offer(std::uint64_t key, const RowNoise& noise) {
  if (key == 0) return;
  const std::uint64_t bits = noise.stream.bits(token_of(key));
  if (!may_choose(logit_of(key), noise, bits)) return;
  const double value = logit_of(key) + noise.temperature * GumbelStream::noise(bits);
  if (value < value_.load(std::memory_order_relaxed)) return;
  const std::lock_guard lock(mutex_);
  const double best = value_.load(std::memory_order_relaxed);
  if (value > best || (value == best && has_lower_token(key, key_))) {
    key_ = key;
    value_.store(value, std::memory_order_relaxed);
  }
}

}  // namespace llada

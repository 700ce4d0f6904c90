#include "token_confidence/noised_choice.h"

#include <cmath>

#include "cpu/panel_format.h"

namespace llada {

float NoisedChoice::least(const RowNoise& noise) const {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr double kRounding = 1e-12;
  if (noise.temperature == 0.0) return kInfinity;
  const double best = value_.load(std::memory_order_relaxed), most = noise.temperature * GumbelStream::noise_limit(0);
  return std::nextafter(static_cast<float>(best - most - kRounding * (std::abs(best) + most)), -kInfinity);
}

float NoisedChoice::value_below() const {
  constexpr double kRounding = 1e-6;
  const double best = value_.load(std::memory_order_relaxed);
  return static_cast<float>(best - kRounding * std::abs(best));
}

void NoisedChoice::offer_one(std::uint64_t key, const RowNoise& noise) {
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

void NoisedChoice::offer(const float* logits, std::int64_t first, const RowNoise& noise) {
  for (int c = 0; c < kPanelColumns; ++c) offer_one(choice_key(logits[c], first + c), noise);
}

}  // namespace llada

#include "token_confidence/noised_choice.h"

#include "cpu/panel_gemm.h"

namespace llada {

void NoisedChoice::offer_one(std::uint64_t key, const RowNoise& noise) {
  if (key == 0) return;
  const double value = logit_of(key) + noise.temperature * GumbelStream::noise(noise.stream.bits(token_of(key)));
  if (value < value_.load(std::memory_order_relaxed)) return;
  const std::lock_guard lock(mutex_);
  const double best = value_.load(std::memory_order_relaxed);
  if (value > best || (value == best && has_lower_token(key, key_))) {
    key_ = key;
    value_.store(value, std::memory_order_relaxed);
  }
}

void NoisedChoice::offer(const float* logits, float highest, std::int64_t first, const RowNoise& noise,
                         const PanelStatistics& statistics) {
  if (!(highest > -std::numeric_limits<float>::infinity())) return;
  const double least = (value_.load(std::memory_order_relaxed) - highest) / noise.temperature;
  const std::uint64_t lowest = statistics.lowest_noise_bits(noise.stream.counter(first));
  if (GumbelStream::noise_limit(lowest) < least) return;
  const double limit = GumbelStream::bits_limit(least);
  if (static_cast<double>(lowest) > limit) return;
  for (int c = 0; c < kPanelColumns; ++c) {
    if (static_cast<double>(noise.stream.bits(first + c)) <= limit) offer_one(choice_key(logits[c], first + c), noise);
  }
}

}  // namespace llada

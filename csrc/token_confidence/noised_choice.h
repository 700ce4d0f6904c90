// The best of a row's tokens under noise: the largest logit + temperature * Gumbel noise, whichever threads offer them
// in whatever order. Threads share a row's: noise is drawn only where it can win, and each alone would draw much more.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <mutex>

#include "token_confidence/choice_key.h"
#include "token_confidence/gumbel.h"
#include "token_confidence/panel_statistics.h"

namespace llada {

// What a row's noise is drawn from.
struct RowNoise {
  double temperature = 0.0;  // none
  GumbelStream stream = GumbelStream(0, 0);
};

class NoisedChoice {
 public:
  // As BestCandidates::offer.
  void offer(const float* logits, float highest, std::int64_t first, const RowNoise& noise,
             const PanelStatistics& statistics);
  void offer_one(std::uint64_t key, const RowNoise& noise);

  // 0 while nothing is offered.
  std::uint64_t key() const { return key_; }

 private:
  std::mutex mutex_;
  std::uint64_t key_ = 0;
  std::atomic<double> value_{-std::numeric_limits<double>::infinity()};
};

}  // namespace llada

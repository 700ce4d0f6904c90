// The best of a row's tokens under noise: the largest logit + temperature * Gumbel noise, whichever threads offer them
// in whatever order. Threads share a row's: noise is drawn only where it can win, and each alone would draw much more.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <mutex>

#include "token_confidence/choice_key.h"
#include "token_confidence/gumbel.h"

namespace llada {

// What a row's noise is drawn from.
struct RowNoise {
  double temperature = 0.0;  // none
  GumbelStream stream = GumbelStream(0, 0);
};

class NoisedChoice {
 public:
  // Whether a logit could be chosen with noise of these bits or higher ones. Exact, for rounding is monotonic.
  bool may_choose(float logit, const RowNoise& noise, std::uint64_t bits) const {
    const double limit = logit + noise.temperature * GumbelStream::noise_limit(bits);
    return limit >= value_.load(std::memory_order_relaxed) && limit > -std::numeric_limits<double>::infinity();
  }

  // A logit below which none can be chosen with noise of these bits or higher ones, 0 being whatever noise; infinity
  // where there is none.
  float least(const RowNoise& noise, std::uint64_t bits) const;

  // Below the best's value by more than floats round, or minus infinity.
  float value_below() const;

  // By any thread.
  void offer(std::uint64_t key, const RowNoise& noise);

  // As if nothing had been offered, when no thread offers.
  void clear() {
    key_ = 0;
    value_.store(-std::numeric_limits<double>::infinity(), std::memory_order_relaxed);
  }

  // 0 while nothing is offered.
  std::uint64_t key() const { return key_; }

 private:
  std::atomic<double> value_{-std::numeric_limits<double>::infinity()};
  std::uint64_t key_ = 0;
  std::mutex mutex_;
};

}  // namespace llada

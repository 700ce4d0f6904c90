// The largest keys of a row, of all that threads offer in any order: which they are does not depend on the order, for
// no two tokens share a key.
//
// Twice as many as wanted are kept; when these are full the smaller half goes, and the smallest left becomes the
// threshold below which nothing is looked at. Threads share a row's: each alone would see too little of the vocabulary
// for a threshold that is worth its test. What a thread finds it keeps to itself until there are some: it takes less
// time to find a key than to have the lines of the shared ones come over from another thread's cache.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <mutex>
#include <span>
#include <vector>

#include "cpu/panel_format.h"
#include "token_confidence/panel_statistics.h"

namespace llada {

class BestCandidates {
 public:
  static constexpr int kMostStaged = 64;

  // What one thread has found of a row and not handed over.
  struct Staged {
    int count = 0;
    std::uint64_t keys[kMostStaged + kPanelColumns];
  };

  // Before all else.
  void set_capacity(std::int64_t capacity);

  // Offers a panel's logits, of tokens first, first + 1, ...; minus infinity is no candidate, `highest` is that of the
  // others. By any thread.
  void offer(const float* logits, float highest, std::int64_t first, const PanelStatistics& statistics,
             Staged& staged) {
    if (highest >= least_.load(std::memory_order_relaxed)) stage(logits, first, statistics, staged);
  }

  // Hands over what is staged, which is then empty.
  void take(Staged& staged);

  // The `capacity` largest keys, or all there are, the largest first; when nothing is offered any more.
  std::span<const std::uint64_t> sorted();

 private:
  void stage(const float* logits, std::int64_t first, const PanelStatistics& statistics, Staged& staged);
  void keep_best();

  std::atomic<float> least_{-std::numeric_limits<float>::infinity()};  // the threshold's logit, or an earlier one's
  std::atomic<std::uint64_t> threshold_{0};                            // larger keys are taken
  std::int64_t capacity_ = 0;
  std::mutex mutex_;
  std::vector<std::uint64_t> keys_;
};

}  // namespace llada

// The largest keys of a row, of all that threads offer in any order: which they are does not depend on the order, for
// no two tokens share a key.
//
// Twice as many as wanted are kept; when these are full the smaller half goes, and the smallest left becomes the
// threshold below which nothing is looked at. Threads share a row's: each alone would see too little of the vocabulary
// for a threshold that is worth its test.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "token_confidence/panel_statistics.h"

namespace llada {

class BestCandidates {
 public:
  // Before all else.
  void set_capacity(std::int64_t capacity);

  // Offers a panel's logits, of tokens first, first + 1, ...; minus infinity is no candidate, `highest` is that of the
  // others. By any thread.
  void offer(const float* logits, float highest, std::int64_t first, const PanelStatistics& statistics);

  // The `capacity` largest keys, or all there are, the largest first; when nothing is offered any more.
  std::span<const std::uint64_t> sorted();

 private:
  void keep_best();

  std::int64_t capacity_ = 0;
  std::atomic<std::uint64_t> threshold_{0};  // larger keys are taken
  std::mutex mutex_;
  std::vector<std::uint64_t> keys_;
};

}  // namespace llada

// The largest keys of a row, of all that threads offer in any order: which they are does not depend on the order, for
// no two tokens share a key.
//
// Twice as many as wanted are kept; when these are full the smaller half goes, and the smallest left becomes the
// threshold below which nothing is looked at. Threads share a row's: each alone would see too little of the vocabulary
// for a threshold that is worth its test. What a thread finds it keeps to itself until there are some: it takes less
// time to find a key than to have the lines of the shared ones come over from another thread's cache.
#pragma once

#include <algorithm>
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
  static constexpr int kManyStaged = 64;   // are handed over unless another thread is at it
  static constexpr int kMostStaged = 256;  // are, after it

  // What one thread has found of a row and not handed over.
  struct Staged {
    static constexpr int kSize = kMostStaged + kPanelColumns;
    int count;
    float logits[kSize];
    std::int32_t tokens[kSize];
  };

  // Before all else.
  void start(std::int64_t capacity, const PanelStatistics& statistics);

  // A logit below which none is a candidate any more.
  float least() const { return least_.load(std::memory_order_relaxed); }

  // Takes a panel's logits of at least that, of tokens first, first + 1, ...; minus infinity is no candidate. By any
  // thread. Whether `least` may have risen.
  bool offer(const float* logits, float least, std::int64_t first, Staged& staged) {
    const int count = staged.count;
    staged.count += statistics_->copy_at_least(logits, least, first, staged.logits + count, staged.tokens + count);
    return staged.count >= many_staged_ && try_take(staged);
  }

  // Hands over what is staged, which is then empty.
  void take(Staged& staged);

  // Nothing below this logit is a candidate; in the end, nothing below the highest of these. By any thread.
  void raise_floor(float floor);

  // When nothing is offered any more: how many there are, and the largest of them in order. No more of them are sorted
  // than have been asked for.
  void finish();
  std::int64_t size() const { return std::min(count_, capacity_); }
  std::span<const std::uint64_t> largest(std::int64_t count);

 private:
  static constexpr std::int64_t kRoom = 8;  // that split_keys may overwrite

  // Unless another thread is at it and there is room for more.
  bool try_take(Staged& staged);
  void take_locked(Staged& staged);
  void raise_threshold(std::uint64_t threshold);
  void keep_best();
  // Brings the largest of keys [begin, end) to its front, up to key `count`; the last of them is the smallest.
  void select_largest(std::int64_t begin, std::int64_t count, std::int64_t end);

  const PanelStatistics* statistics_ = nullptr;
  std::atomic<float> least_{-std::numeric_limits<float>::infinity()};  // the threshold's
  int many_staged_ = 0;
  std::int64_t capacity_ = 0;
  std::uint64_t threshold_ = 0;  // larger keys are taken
  std::uint64_t floor_ = 0;
  std::mutex mutex_;
  std::int64_t count_ = 0, sorted_ = 0;
  std::vector<std::uint64_t> keys_;  // the first count_, and room
};

}  // namespace llada

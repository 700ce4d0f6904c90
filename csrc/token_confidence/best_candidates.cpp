#include "token_confidence/best_candidates.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "token_confidence/choice_key.h"

namespace llada {

void BestCandidates::set_capacity(std::int64_t capacity) {
  capacity_ = capacity;
  keys_.reserve(2 * capacity + kMostStaged + kPanelColumns);
}

void BestCandidates::stage(const float* logits, std::int64_t first, const PanelStatistics& statistics, Staged& staged) {
  const std::uint64_t threshold = threshold_.load(std::memory_order_relaxed);
  const float least = logit_of(threshold);
  for (std::uint32_t bits = statistics.at_least(logits, least); bits != 0; bits &= bits - 1) {
    const int c = std::countr_zero(bits);
    const std::uint64_t key = choice_key(logits[c], first + c);
    staged.keys[staged.count] = key;
    staged.count += key > threshold;
  }
  if (staged.count >= std::min<std::int64_t>(capacity_, kMostStaged)) take(staged);
}

void BestCandidates::take(Staged& staged) {
  if (staged.count == 0) return;
  const std::lock_guard lock(mutex_);
  keys_.insert(keys_.end(), staged.keys, staged.keys + staged.count);
  staged.count = 0;
  if (static_cast<std::int64_t>(keys_.size()) < 2 * capacity_) return;
  keep_best();
  threshold_.store(keys_.back(), std::memory_order_relaxed);
  least_.store(logit_of(keys_.back()), std::memory_order_relaxed);
}

// The last of those kept is the smallest. Quickselect as in std::nth_element, but without branches on the keys, which
// cannot be predicted.
void BestCandidates::keep_best() {
  constexpr std::int64_t kFew = 16, kMostRounds = 64;
  std::uint64_t* keys = keys_.data();
  std::int64_t begin = 0, end = static_cast<std::int64_t>(keys_.size());
  for (int round = 0; round < kMostRounds && end - begin > kFew; ++round) {
    const std::uint64_t left = keys[begin], middle = keys[(begin + end) / 2], right = keys[end - 1];
    const std::uint64_t pivot = std::max(std::min(left, middle), std::min(std::max(left, middle), right));
    std::int64_t split = begin;  // keys before it are at least the pivot
    for (std::int64_t i = begin; i < end; ++i) {
      const std::uint64_t key = keys[i];
      keys[i] = keys[split];
      keys[split] = key;
      split += key >= pivot;
    }
    (split >= capacity_ ? end : begin) = split;
  }
  std::nth_element(keys + begin, keys + capacity_ - 1, keys + end, std::greater<>());
  keys_.resize(capacity_);
}

std::span<const std::uint64_t> BestCandidates::sorted() {
  if (static_cast<std::int64_t>(keys_.size()) > capacity_) keep_best();
  std::sort(keys_.begin(), keys_.end(), std::greater<>());
  return keys_;
}

}  // namespace llada

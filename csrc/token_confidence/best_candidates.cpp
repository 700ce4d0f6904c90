#include "token_confidence/best_candidates.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "token_confidence/choice_key.h"

namespace llada {

void BestCandidates::set_capacity(std::int64_t capacity) {
  capacity_ = capacity;
  many_staged_ = static_cast<int>(std::min<std::int64_t>(capacity, kManyStaged));
  keys_.resize(2 * capacity + kMostStaged + kPanelColumns);
}

void BestCandidates::take(Staged& staged) {
  const std::lock_guard lock(mutex_);
  take_locked(staged);
}

bool BestCandidates::try_take(Staged& staged) {
  std::unique_lock lock(mutex_, std::defer_lock);
  if (staged.count >= kMostStaged) {
    lock.lock();
  } else if (!lock.try_lock()) {
    return false;
  }
  take_locked(staged);
  return true;
}

void BestCandidates::take_locked(Staged& staged) {
  for (int i = 0; i < staged.count; ++i) {
    const std::uint64_t key = choice_key(staged.logits[i], staged.tokens[i]);
    keys_[count_] = key;
    count_ += key > threshold_;
  }
  staged.count = 0;
  if (count_ < 2 * capacity_) return;
  keep_best();
  raise_threshold(keys_[capacity_ - 1]);
}

void BestCandidates::raise_floor(float floor) {
  const std::lock_guard lock(mutex_);
  floor_ = std::max(floor_, choice_key(floor, std::numeric_limits<std::int32_t>::max()));
  raise_threshold(floor_);
}

void BestCandidates::raise_threshold(std::uint64_t threshold) {
  if (threshold <= threshold_) return;
  threshold_ = threshold;
  least_.store(logit_of(threshold_), std::memory_order_relaxed);
}

// The last of those kept is the smallest. Quickselect as in std::nth_element, but without branches on the keys, which
// cannot be predicted.
void BestCandidates::keep_best() {
  constexpr std::int64_t kFew = 16, kMostRounds = 64;
  std::uint64_t* keys = keys_.data();
  std::int64_t begin = 0, end = count_;
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
  count_ = capacity_;
}

void BestCandidates::finish() {
  const auto below = [this](std::uint64_t key) { return key < floor_; };
  count_ = std::remove_if(keys_.begin(), keys_.begin() + count_, below) - keys_.begin();
}

std::span<const std::uint64_t> BestCandidates::largest(std::int64_t count) {
  count = std::min(count, size());
  if (count > sorted_) {
    const auto begin = keys_.begin();
    std::partial_sort(begin + sorted_, begin + count, begin + count_, std::greater<>());
    sorted_ = count;
  }
  return {keys_.data(), static_cast<std::size_t>(count)};
}

}  // namespace llada

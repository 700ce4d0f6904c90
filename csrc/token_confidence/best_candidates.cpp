#include "token_confidence/best_candidates.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "cpu/thread_scratch.h"
#include "token_confidence/choice_key.h"

namespace llada {

void BestCandidates::start(std::int64_t capacity, const PanelStatistics& statistics) {
  statistics_ = &statistics;
  capacity_ = capacity;
  many_staged_ = static_cast<int>(std::min<std::int64_t>(capacity, kManyStaged));
  keys_.resize(2 * capacity + Staged::kSize + kRoom);
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
  std::uint64_t keys[Staged::kSize], below[Staged::kSize + kRoom];
  statistics_->make_keys(staged.logits, staged.tokens, staged.count, keys);
  count_ += statistics_->split_keys(keys, staged.count, threshold_ + 1, keys_.data() + count_, below);
  staged.count = 0;
  if (count_ < 2 * capacity_) return;
  keep_best();
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

void BestCandidates::keep_best() {
  select_largest(0, capacity_, count_);
  count_ = capacity_;
  raise_threshold(keys_[capacity_ - 1]);
}

// Quickselect as in std::nth_element, but with a split that neither branches on the keys, which cannot be predicted,
// nor swaps them in place, where each step would wait for the one before.
void BestCandidates::select_largest(std::int64_t begin, std::int64_t count, std::int64_t end) {
  constexpr std::int64_t kFew = 16, kMostRounds = 64;
  std::uint64_t *keys = keys_.data(), *kept = thread_scratch<struct SplitKeys, std::uint64_t>(2 * (end + kRoom));
  std::uint64_t* below = kept + end + kRoom;
  for (int round = 0; round < kMostRounds && end - begin > kFew; ++round) {
    const std::uint64_t left = keys[begin], middle = keys[(begin + end) / 2], right = keys[end - 1];
    const std::uint64_t pivot = std::max(std::min(left, middle), std::min(std::max(left, middle), right));
    const std::int64_t split = begin + statistics_->split_keys(keys + begin, end - begin, pivot, kept, below);
    std::copy(kept, kept + (split - begin), keys + begin);
    std::copy(below, below + (end - split), keys + split);
    (split >= count ? end : begin) = split;
  }
  std::nth_element(keys + begin, keys + count - 1, keys + end, std::greater<>());
}

void BestCandidates::finish() {
  const auto below = [this](std::uint64_t key) { return key < floor_; };
  count_ = std::remove_if(keys_.begin(), keys_.begin() + count_, below) - keys_.begin();
}

std::span<const std::uint64_t> BestCandidates::largest(std::int64_t count) {
  count = std::min(count, size());
  if (count > sorted_) {
    if (count < count_) select_largest(sorted_, count, count_);
    std::sort(keys_.begin() + sorted_, keys_.begin() + count, std::greater<>());
    sorted_ = count;
  }
  return {keys_.data(), static_cast<std::size_t>(count)};
}

}  // namespace llada

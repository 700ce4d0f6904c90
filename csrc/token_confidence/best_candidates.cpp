#include "token_confidence/best_candidates.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "cpu/panel_gemm.h"
#include "token_confidence/choice_key.h"

namespace llada {

void BestCandidates::set_capacity(std::int64_t capacity) {
  capacity_ = capacity;
  keys_.reserve(2 * capacity + kPanelColumns);
}

void BestCandidates::offer(const float* logits, float highest, std::int64_t first, const PanelStatistics& statistics) {
  const std::uint64_t threshold = threshold_.load(std::memory_order_relaxed);
  const float least = logit_of(threshold);
  if (!(highest >= least)) return;
  std::uint64_t found[kPanelColumns];
  int count = 0;
  for (std::uint32_t bits = statistics.at_least(logits, least); bits != 0; bits &= bits - 1) {
    const int c = std::countr_zero(bits);
    const std::uint64_t key = choice_key(logits[c], first + c);
    if (key > threshold) found[count++] = key;
  }
  if (count == 0) return;
  const std::lock_guard lock(mutex_);
  keys_.insert(keys_.end(), found, found + count);
  if (static_cast<std::int64_t>(keys_.size()) < 2 * capacity_) return;
  keep_best();
  threshold_.store(keys_.back(), std::memory_order_relaxed);
}

// The last of those kept is the smallest.
void BestCandidates::keep_best() {
  const auto last = keys_.begin() + (capacity_ - 1);
  std::nth_element(keys_.begin(), last, keys_.end(), std::greater<>());
  keys_.resize(capacity_);
}

std::span<const std::uint64_t> BestCandidates::sorted() {
  if (static_cast<std::int64_t>(keys_.size()) > capacity_) keep_best();
  std::sort(keys_.begin(), keys_.end(), std::greater<>());
  return keys_;
}

}  // namespace llada

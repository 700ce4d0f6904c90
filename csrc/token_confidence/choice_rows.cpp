#include "token_confidence/choice_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/thread_scratch.h"

namespace llada {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <class Use>
void for_each_bit(std::uint32_t bits, const Use& use) {
  for (; bits != 0; bits &= bits - 1) use(std::countr_zero(bits));
}

// By any thread.
void raise_to(std::atomic<float>& shared, float value) {
  float known = shared.load(std::memory_order_relaxed);
  while (known < value && !shared.compare_exchange_weak(known, value, std::memory_order_relaxed)) {
  }
}

// A logit below all of the nucleus of a row with a logit as high.
float below_nucleus(float highest, const ChoiceRow& row) {
  constexpr double kRounding = 1e-6;
  const double floor = highest - row.nucleus_depth;
  return static_cast<float>(floor - kRounding * std::abs(floor));
}

}  // namespace

void RowLanes::clear_staged() {
  for (BestCandidates::Staged& staged : staged_) staged.count = 0;
}

void RowLanes::start(const PanelStatistics& statistics, ChoiceRow* const* rows, int num_rows, Masses masses) {
  statistics_ = &statistics;
  rows_ = rows;
  num_rows_ = num_rows;
  panels_ = 0;
  masses_ = masses;
  distribution_.clear();
  mass_.clear();
  for (int i = 0; i < kRowLanes; ++i) {
    const ChoiceRow* row = i < num_rows ? rows[i] : nullptr;
    highest_[i] = -kInfinity;
    bounds_.above[i] = row == nullptr ? kInfinity : -kInfinity;
    bounds_.candidate[i] = row == nullptr ? kInfinity : row->candidates.least();
    bounds_.noised[i] = kInfinity;
    noise_.start[i] = row == nullptr ? 0 : row->noise.stream.counter(0);
    noise_.value[i] = 0.0f;
    noise_.scale[i] = row == nullptr ? 1.0f : static_cast<float>(std::min(1.0 / row->noise.temperature, 1e30));
    if (row == nullptr) continue;
    chosen_highest_[i] = row->highest.load(std::memory_order_relaxed);
    nucleus_floor_[i] = below_nucleus(chosen_highest_[i], *row);
    find_least_noised(i);
  }
}

void RowLanes::finish(RowPart* parts) {
  for (int i = 0; i < num_rows_; ++i) {
    raise_to(rows_[i]->highest, chosen_highest_[i]);
    const Distribution& distribution = parts[i].distribution = distribution_.at(i);
    if (masses_ == Masses::kOwn) parts[i].mass = mass_.at(i);
    if (masses_ == Masses::kDistributed) parts[i].mass = {distribution.maximum(), distribution.sum()};
  }
}

void RowLanes::add_distributions(const LogitTile& tile) {
  const bool chosen = masses_ == Masses::kDistributed;
  for_each_bit(reached_.above, [&](int i) {
    if (chosen) raise_floors(i);
    if (highest_[i] > distribution_.limit[i]) distribution_.raise(i, highest_[i]);
    bounds_.above[i] = chosen ? std::min(distribution_.limit[i], chosen_highest_[i]) : distribution_.limit[i];
  });
  for (int i = 0; i < kRowLanes; ++i) distribution_.maximum[i] = std::max(distribution_.maximum[i], highest_[i]);
  statistics_->add_powers(tile.logits, num_rows_, distribution_.reference, distribution_.sum, distribution_.weighted);
  if (++panels_ % RowSums::kPanelsApart != 0) return;
  distribution_.sum.settle(num_rows_);
  distribution_.weighted.settle(num_rows_);
}

void RowLanes::offer_candidates(const LogitTile& tile) {
  for_each_bit(reached_.candidate, [&](int i) {
    BestCandidates& candidates = rows_[i]->candidates;
    if (candidates.offer(tile.row(i), bounds_.candidate[i], tile.first_token, staged_[i]))
      bounds_.candidate[i] = candidates.least();
  });
}

void RowLanes::offer_noised(const LogitTile& tile) {
  if (reached_.noised == 0) return;
  std::uint64_t lowest[kRowLanes];
  for_each_bit(statistics_->may_reach(noise_, highest_, tile.first_token, reached_.noised, lowest), [&](int i) {
    ChoiceRow& row = *rows_[i];
    const float *logits = tile.row(i), least = row.noised.least(row.noise, lowest[i]);
    for_each_bit(statistics_->at_least(logits, least),
                 [&](int c) { row.noised.offer(choice_key(logits[c], tile.first_token + c), row.noise); });
    find_least_noised(i);
  });
}

void RowLanes::find_least_noised(int lane) {
  const ChoiceRow& row = *rows_[lane];
  bounds_.noised[lane] = std::max(row.noised.least(row.noise, 0), nucleus_floor_[lane]);
  noise_.value[lane] = row.noised.value_below();
}

void RowLanes::add_masses(const LogitTile& tile) {
  if (masses_ != Masses::kOwn) return;
  for (int i = 0; i < num_rows_; ++i) {
    if (!(highest_[i] > mass_.maximum[i])) continue;
    raise_floors(i);
    mass_.raise(i, highest_[i], rows_[i]->noise.temperature);
  }
  statistics_->add_scaled_powers(tile.logits, num_rows_, mass_.reference, noise_.scale, mass_.sum);
  if (panels_ % RowSums::kPanelsApart == 0) mass_.sum.settle(num_rows_);
}

void RowLanes::raise_floors(int lane) {
  ChoiceRow& row = *rows_[lane];
  const float before = chosen_highest_[lane];
  if (!(highest_[lane] > before)) return;
  chosen_highest_[lane] = highest_[lane];
  nucleus_floor_[lane] = below_nucleus(highest_[lane], row);
  bounds_.noised[lane] = std::max(bounds_.noised[lane], nucleus_floor_[lane]);
  // Two of a row's tokens stay above the floor of its candidates: the one that is chosen and a runner-up.
  const float floor = below_nucleus(before, row);
  if (floor > bounds_.candidate[lane]) {
    row.candidates.raise_floor(floor);
    bounds_.candidate[lane] = row.candidates.least();
  }
}

bool RowLanes::keep_likelier(const LogitTile& tile) const {
  if (!tile.rounded) statistics_->round_to_bfloat16(tile.logits, num_rows_);
  bool any = false;
  for (int i = 0; i < num_rows_; ++i) {
    float* logits = tile.row(i);
    const std::uint64_t choice = rows_[i]->choice;
    const float least = logit_of(choice);
    std::uint32_t kept = statistics_->at_least(logits, least);
    const std::uint32_t above = statistics_->at_least(logits, std::nextafter(least, kInfinity));
    for_each_bit(kept & ~above, [&](int c) {
      if (tile.first_token + c >= token_of(choice)) kept &= ~(std::uint32_t{1} << c);
    });
    statistics_->keep(logits, kept);
    any |= kept != 0;
  }
  return any;
}

ThreadLanes::ThreadLanes(const std::vector<RowChunk>& chunks) : chunks_(chunks) {
  for (std::size_t c = 0; c < chunks.size(); ++c) {
    chunk_of_row_.insert(chunk_of_row_.end(), chunks[c].num_rows, static_cast<std::int32_t>(c));
  }
}

RowLanes* ThreadLanes::mine() {
  const auto count = static_cast<std::int64_t>(chunks_.size());
  auto* lanes = thread_scratch<struct LanesScratch, RowLanes>(count);
  const std::lock_guard lock(mutex_);
  if (std::find(threads_.begin(), threads_.end(), lanes) == threads_.end()) {
    threads_.push_back(lanes);
    for (std::int64_t c = 0; c < count; ++c) lanes[c].clear_staged();
  }
  return lanes;
}

void ThreadLanes::hand_over(std::int64_t r, ChoiceRow& row) const {
  const std::int32_t c = chunk_of_row_[r];
  for (RowLanes* lanes : threads_) lanes[c].hand_over(static_cast<int>(r - chunks_[c].first_row), row);
}

}  // namespace llada

#include "token_confidence/choice_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace llada {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <class Use>
void for_each_bit(std::uint32_t bits, const Use& use) {
  for (; bits != 0; bits &= bits - 1) use(std::countr_zero(bits));
}

}  // namespace

void RowLanes::start(const PanelStatistics& statistics, ChoiceRow* const* rows, int num_rows, Masses masses) {
  statistics_ = &statistics;
  rows_ = rows;
  num_rows_ = num_rows;
  masses_ = masses;
  panel_ = {};
  distribution_.clear();
  mass_.clear();
  for (int i = 0; i < kRowLanes; ++i) {
    const ChoiceRow* row = i < num_rows ? rows[i] : nullptr;
    highest_[i] = -kInfinity;
    least_candidate_[i] = row == nullptr ? kInfinity : row->candidates.least();
    least_noised_[i] = kInfinity;
    noise_.start[i] = row == nullptr ? 0 : row->noise.stream.counter(0);
    noise_.value[i] = 0.0f;
    noise_.scale[i] = row == nullptr ? 1.0f : static_cast<float>(std::min(1.0 / row->noise.temperature, 1e30));
    if (row == nullptr) continue;
    find_least_noised(i);
    staged_[i].count = 0;
  }
}

void RowLanes::finish(RowPart* parts) {
  for (int i = 0; i < num_rows_; ++i) {
    if (staged_[i].count > 0) rows_[i]->candidates.take(staged_[i]);
    parts[i].distribution = distribution_.at(i);
    if (masses_ == Masses::kOwn) parts[i].mass = mass_.at(i);
    if (masses_ == Masses::kDistributed) parts[i].mass = Mass(distribution_.maximum[i], distribution_.sum[i]);
  }
}

void RowLanes::add_distributions(const LogitTile& tile) {
  for_each_bit(statistics_->lanes_above(highest_, distribution_.maximum), [&](int i) {
    if (masses_ == Masses::kDistributed) raise_floor(i, distribution_.maximum[i]);
    distribution_.raise(i, highest_[i]);
  });
  statistics_->power_sums(tile.logits, num_rows_, distribution_.reference, panel_);
  statistics_->add_lanes(panel_.sum, distribution_.sum);
  statistics_->add_lanes(panel_.weighted, distribution_.weighted);
}

void RowLanes::offer_candidates(const LogitTile& tile) {
  for_each_bit(statistics_->lanes_at_least(highest_, least_candidate_), [&](int i) {
    BestCandidates& candidates = rows_[i]->candidates;
    if (candidates.offer(tile.row(i), least_candidate_[i], tile.first_token, *statistics_, staged_[i]))
      least_candidate_[i] = candidates.least();
  });
}

void RowLanes::offer_noised(const LogitTile& tile) {
  const std::uint32_t drawn = statistics_->lanes_at_least(highest_, least_noised_);
  if (drawn == 0) return;
  std::uint64_t lowest[kRowLanes];
  for_each_bit(statistics_->may_reach(noise_, highest_, tile.first_token, drawn, lowest), [&](int i) {
    ChoiceRow& row = *rows_[i];
    const float *logits = tile.row(i), least = row.noised.least(row.noise, lowest[i]);
    for_each_bit(statistics_->at_least(logits, least),
                 [&](int c) { row.noised.offer(choice_key(logits[c], tile.first_token + c), row.noise); });
    find_least_noised(i);
  });
}

void RowLanes::find_least_noised(int lane) {
  const ChoiceRow& row = *rows_[lane];
  least_noised_[lane] = row.noised.least(row.noise, 0);
  noise_.value[lane] = row.noised.value_below();
}

void RowLanes::add_masses(const LogitTile& tile) {
  if (masses_ != Masses::kOwn) return;
  for_each_bit(statistics_->lanes_above(highest_, mass_.maximum), [&](int i) {
    raise_floor(i, mass_.maximum[i]);
    mass_.raise(i, highest_[i], rows_[i]->noise.temperature);
  });
  statistics_->scaled_power_sums(tile.logits, num_rows_, mass_.reference, noise_.scale, panel_.sum);
  statistics_->add_lanes(panel_.sum, mass_.sum);
}

void RowLanes::raise_floor(int lane, float maximum) {
  ChoiceRow& row = *rows_[lane];
  if (!(maximum - row.nucleus_depth > least_candidate_[lane])) return;
  const float floor = std::nextafter(static_cast<float>(maximum - row.nucleus_depth), -kInfinity);
  if (!(floor > least_candidate_[lane])) return;
  row.candidates.raise_floor(floor);
  least_candidate_[lane] = row.candidates.least();
}

bool RowLanes::keep_likelier(const LogitTile& tile) const {
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

}  // namespace llada

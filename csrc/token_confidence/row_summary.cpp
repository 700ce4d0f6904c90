#include "token_confidence/row_summary.h"

#include <algorithm>
#include <cmath>

namespace llada {
float RowSummary::add_to_distribution(const float* logits, const PanelStatistics& statistics) {
  const float high = statistics.highest(logits);
  if (high > maximum_) {
    const double shift = static_cast<double>(maximum_) - high;
    if (sum_ != 0.0) {
      const double factor = std::exp(shift);
      weighted_ = factor * (weighted_ + shift * sum_);
      sum_ *= factor;
    }
    maximum_ = high;
  }
  const PowerSums powers = statistics.power_sums(logits, maximum_ == kNone ? 0.0f : maximum_);
  sum_ += powers.sum;
  weighted_ += powers.weighted;
  return high;
}

void RowSummary::offer_one(Candidate candidate) {
  if (candidate.logit > best_.logit) {
    second_ = best_;
    best_ = candidate;
  } else if (candidate.logit > second_.logit) {
    second_ = candidate;
  }
}

void RowSummary::offer(const float* logits, float highest, std::int64_t first) {
  if (!(highest > second_.logit)) return;
  for (int c = 0; c < kPanelColumns; ++c) offer_one({logits[c], static_cast<std::int32_t>(first + c)});
}

void RowSummary::offer_noised(const float* logits, float highest, std::int64_t first, double temperature,
                              const GumbelStream& stream) {
  const double least = (noised_value_ - static_cast<double>(highest)) / temperature;
  const double limit = GumbelStream::bits_limit(least);
  for (int c = 0; c < kPanelColumns; ++c) {
    const std::uint64_t bits = stream.bits(first + c);
    if (static_cast<double>(bits) > limit) continue;
    const double value = logits[c] + temperature * GumbelStream::noise(bits);
    if (value > noised_value_) {
      noised_value_ = value;
      noised_ = {logits[c], static_cast<std::int32_t>(first + c)};
    }
  }
}

void RowSummary::merge(const RowSummary& later) {
  const float high = std::max(maximum_, later.maximum_);
  // Parts without any finite logit have sum zero (or NaN, which must pass).
  const auto move = [high](const RowSummary& part, double& sum, double& weighted) {
    const double shift = part.maximum_ == kNone ? 0.0 : static_cast<double>(part.maximum_) - high;
    sum += part.sum_ * std::exp(shift);
    weighted += std::exp(shift) * (part.weighted_ + shift * part.sum_);
  };
  double sum = 0.0, weighted = 0.0;
  move(*this, sum, weighted);
  move(later, sum, weighted);
  maximum_ = high;
  sum_ = sum;
  weighted_ = weighted;
  offer_one(later.best_);
  offer_one(later.second_);
  if (later.noised_value_ > noised_value_) {
    noised_value_ = later.noised_value_;
    noised_ = later.noised_;
  }
}

RowSummary::Result RowSummary::result(bool noised) const {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const Candidate chosen = noised ? noised_ : best_;
  const double logsumexp = maximum_ + std::log(sum_);
  if (!std::isfinite(logsumexp) || chosen.token < 0) return {-1, -1, kNan, kNan, kNan, kNan};
  const Candidate other = chosen.token == best_.token ? second_ : best_;
  return {chosen.token,
          other.token,
          static_cast<float>(chosen.logit - logsumexp),
          static_cast<float>(other.logit - logsumexp),
          static_cast<float>(std::max(std::log(sum_) - weighted_ / sum_, 0.0)),
          static_cast<float>(logsumexp)};
}

}  // namespace llada

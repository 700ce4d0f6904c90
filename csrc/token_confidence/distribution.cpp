#include "token_confidence/distribution.h"

#include <algorithm>
#include <cmath>

namespace llada {

void Distribution::merge(const Distribution& other) {
  const float high = std::max(maximum_, other.maximum_);
  // Parts without any finite logit have sum zero (or NaN, which must pass).
  const auto move = [high](const Distribution& part, double& sum, double& weighted) {
    const double shift = part.maximum_ == kNone ? 0.0 : static_cast<double>(part.maximum_) - high;
    const double factor = shift == 0.0 ? 1.0 : std::exp(shift);
    sum += part.sum_ * factor;
    weighted += factor * (part.weighted_ + shift * part.sum_);
  };
  double sum = 0.0, weighted = 0.0;
  move(*this, sum, weighted);
  move(other, sum, weighted);
  maximum_ = high;
  sum_ = sum;
  weighted_ = weighted;
}

double Distribution::logsumexp() const { return maximum_ + std::log(sum_); }

double Distribution::entropy() const { return std::max(std::log(sum_) - weighted_ / sum_, 0.0); }

void DistributionLanes::clear() {
  for (int lane = 0; lane < kRowLanes; ++lane) {
    maximum[lane] = limit[lane] = Distribution::kNone;
    reference[lane] = 0.0f;
  }
  sum = weighted = {};
}

void DistributionLanes::raise(int lane, float highest) {
  if (limit[lane] > Distribution::kNone) {
    sum.settle_row(lane);
    weighted.settle_row(lane);
    const double shift = static_cast<double>(reference[lane]) - highest, factor = std::exp(shift);
    double &power = sum.settled[lane], &product = weighted.settled[lane];
    product = factor * (product + shift * power);
    power *= factor;
  }
  reference[lane] = highest;
  limit[lane] = highest + kHeadroom;
}

Distribution DistributionLanes::at(int lane) const {
  Distribution distribution;
  const double shift = maximum[lane] > Distribution::kNone ? static_cast<double>(reference[lane]) - maximum[lane] : 0.0;
  const double factor = std::exp(shift), powers = sum.of(lane);
  distribution.maximum_ = maximum[lane];
  distribution.sum_ = factor * powers;
  distribution.weighted_ = factor * (weighted.of(lane) + shift * powers);
  return distribution;
}

}  // namespace llada

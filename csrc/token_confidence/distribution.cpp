#include "token_confidence/distribution.h"

#include <algorithm>
#include <cmath>

namespace llada {

void Distribution::raise_maximum(float highest) {
  const double shift = static_cast<double>(maximum_) - highest;
  if (sum_ != 0.0) {
    const double factor = std::exp(shift);
    weighted_ = factor * (weighted_ + shift * sum_);
    sum_ *= factor;
  }
  maximum_ = highest;
}

void Distribution::merge(const Distribution& other) {
  const float high = std::max(maximum_, other.maximum_);
  // Parts without any finite logit have sum zero (or NaN, which must pass).
  const auto move = [high](const Distribution& part, double& sum, double& weighted) {
    const double shift = part.maximum_ == kNone ? 0.0 : static_cast<double>(part.maximum_) - high;
    sum += part.sum_ * std::exp(shift);
    weighted += std::exp(shift) * (part.weighted_ + shift * part.sum_);
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

}  // namespace llada

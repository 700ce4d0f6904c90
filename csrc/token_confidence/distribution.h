// The distribution of one row's logits, kept while the vocabulary streams by, and how panels and parts of it are added.
#pragma once

#include <cstdint>
#include <limits>

#include "token_confidence/panel_statistics.h"

namespace llada {

class Distribution {
 public:
  // Adds another part of the vocabulary.
  void merge(const Distribution& other);

  float maximum() const { return maximum_; }
  double sum() const { return sum_; }  // of e^(l - maximum)
  double logsumexp() const;
  double entropy() const;

 private:
  friend struct DistributionLanes;
  static constexpr float kNone = -std::numeric_limits<float>::infinity();

  float maximum_ = kNone;
  double sum_ = 0.0;       // of e^(l - maximum)
  double weighted_ = 0.0;  // of (l - maximum) e^(l - maximum)
};

// Those of a tile's rows, while panels are added. Sums are relative to a logit that is not far below the highest: to
// follow each higher one would cost more exponentials than the sums gain in precision.
struct alignas(64) DistributionLanes {
  static constexpr float kHeadroom = 4.0f;

  void clear();
  // Before a panel's sums are added, a logit above the limit.
  void raise(int lane, float highest);
  Distribution at(int lane) const;

  float maximum[kRowLanes];
  float reference[kRowLanes], limit[kRowLanes];  // of which no logit is above; 0 and -inf while none is known
  RowSums sum, weighted;
};

}  // namespace llada

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

  double logsumexp() const;
  double entropy() const;

 private:
  friend struct DistributionLanes;
  static constexpr float kNone = -std::numeric_limits<float>::infinity();

  float maximum_ = kNone;
  double sum_ = 0.0;       // of e^(l - maximum)
  double weighted_ = 0.0;  // of (l - maximum) e^(l - maximum)
};

// Those of a tile's rows, while panels are added.
struct alignas(64) DistributionLanes {
  void clear();
  // Before a panel's sums are added, a higher logit than those before.
  void raise(int lane, float highest);
  Distribution at(int lane) const;

  float maximum[kRowLanes], reference[kRowLanes];  // what sums are relative to: 0 while there is no maximum
  double sum[kRowLanes], weighted[kRowLanes];
};

}  // namespace llada

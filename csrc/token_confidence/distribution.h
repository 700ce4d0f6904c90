// The distribution of one row's logits, kept while the vocabulary streams by, and how panels and parts of it are added.
#pragma once

#include <limits>

#include "token_confidence/panel_statistics.h"

namespace llada {

class Distribution {
 public:
  // Before a panel's sums are added, its highest logit; returns what they are relative to.
  float raise(float highest) {
    if (highest > maximum_) raise_maximum(highest);
    return reference();
  }
  float reference() const { return maximum_ == kNone ? 0.0f : maximum_; }
  void add(const PowerSums& panel) {
    sum_ += panel.sum;
    weighted_ += panel.weighted;
  }
  // Adds another part of the vocabulary.
  void merge(const Distribution& other);

  double logsumexp() const;
  double entropy() const;

 private:
  static constexpr float kNone = -std::numeric_limits<float>::infinity();

  void raise_maximum(float highest);

  float maximum_ = kNone;
  double sum_ = 0.0;       // of e^(l - maximum)
  double weighted_ = 0.0;  // of (l - maximum) e^(l - maximum)
};

}  // namespace llada

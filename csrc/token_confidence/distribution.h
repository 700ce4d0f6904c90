// The distribution of one row's logits, kept while the vocabulary streams by, and how panels and parts of it are added.
#pragma once

#include <limits>

#include "token_confidence/panel_statistics.h"

namespace llada {

class Distribution {
 public:
  // Adds a panel's logits and returns the highest.
  float add(const float* logits, const PanelStatistics& statistics);
  // Adds another part of the vocabulary.
  void merge(const Distribution& other);

  double logsumexp() const;
  double entropy() const;

 private:
  static constexpr float kNone = -std::numeric_limits<float>::infinity();

  float maximum_ = kNone;
  double sum_ = 0.0;       // of e^(l - maximum)
  double weighted_ = 0.0;  // of (l - maximum) e^(l - maximum)
};

}  // namespace llada

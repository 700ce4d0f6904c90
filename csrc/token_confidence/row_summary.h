// What is kept of one row's logits while the vocabulary streams by, and how panels and parts of it are added.
#pragma once

#include <cstdint>
#include <limits>

#include "cpu/panel_gemm.h"
#include "token_confidence/gumbel.h"
#include "token_confidence/panel_statistics.h"

namespace llada {

class RowSummary {
 public:
  // Adds a panel's logits, of tokens first, first + 1, ...: all to the distribution. Returns the highest.
  float add_to_distribution(const float* logits, const PanelStatistics& statistics);
  // Offers them to the choice; those that may not be chosen are minus infinity, `highest` is that of the others. Tokens
  // must come in rising order.
  void offer(const float* logits, float highest, std::int64_t first);
  // Offers them with noise as well; call after offer.
  void offer_noised(const float* logits, float highest, std::int64_t first, double temperature,
                    const GumbelStream& stream);
  // Adds a later part of the vocabulary.
  void merge(const RowSummary& later);

  struct Result {
    std::int32_t token, runner_up;
    float logprob, runner_up_logprob, entropy, logsumexp;
  };
  Result result(bool noised) const;

 private:
  static constexpr float kNone = -std::numeric_limits<float>::infinity();

  struct Candidate {
    float logit = kNone;
    std::int32_t token = -1;
  };
  void offer_one(Candidate candidate);

  float maximum_ = kNone;
  double sum_ = 0.0;       // of e^(l - maximum)
  double weighted_ = 0.0;  // of (l - maximum) e^(l - maximum)
  Candidate best_, second_;
  Candidate noised_;
  double noised_value_ = kNone;
};

}  // namespace llada

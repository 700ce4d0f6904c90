// What is known of the rows whose tokens are chosen, and what a thread keeps of some of them while a part of the
// vocabulary streams by.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <mutex>
#include <vector>

#include "cpu/panel_gemm.h"
#include "token_confidence/best_candidates.h"
#include "token_confidence/distribution.h"
#include "token_confidence/head_logits.h"
#include "token_confidence/noised_choice.h"
#include "token_confidence/nucleus.h"

namespace llada {

// Shared by the parts.
struct alignas(64) ChoiceRow {
  RowNoise noise;
  double nucleus_depth = std::numeric_limits<double>::infinity();
  // Of the logits that may be chosen, as far as is known while the nucleus is looked for.
  std::atomic<float> highest{-std::numeric_limits<float>::infinity()};
  NoisedChoice noised;  // of what has been offered in this pass
  BestCandidates candidates;
  Distribution distribution;
  // Where the nucleus is larger than the candidates: its mass, and what noise chooses if it is within.
  double nucleus = 0.0;
  std::uint64_t choice = 0;
};

// What a part of the vocabulary adds to a row.
struct RowPart {
  Distribution distribution;
  Mass mass;  // of what may be chosen, under top_p alone
};

// The masses of a part's rows: not asked for; at temperature 1, where all may be chosen, the sums of their
// distributions; or their own sums.
enum class Masses : std::uint8_t { kNone, kDistributed, kOwn };

// A chunk's rows in one part of the vocabulary, a lane a row: what every tile asks for is found in vectors. Lanes past
// the rows are never raised and reach no bound.
class RowLanes {
 public:
  // Before a thread's first part: candidates are staged from part to part.
  void clear_staged();
  void start(const PanelStatistics& statistics, ChoiceRow* const* rows, int num_rows, Masses masses);
  void finish(RowPart* parts);
  // After the last, by any thread.
  void hand_over(int lane, ChoiceRow& row) {
    if (staged_[lane].count > 0) row.candidates.take(staged_[lane]);
  }

  // Each of a tile's logits; the first before all else. It rounds them.
  void find_highest(const LogitTile& tile) {
    const auto find = tile.rounded ? statistics_->highest : statistics_->highest_rounded;
    reached_ = find(tile.logits, num_rows_, bounds_, highest_);
  }
  void add_distributions(const LogitTile& tile);
  void offer_candidates(const LogitTile& tile);
  // Draws noise for the rows where any could win and be in the nucleus.
  void offer_noised(const LogitTile& tile);
  void add_masses(const LogitTile& tile);

  // Makes what is not likelier than each row's choice minus infinity; whether anything is left.
  bool keep_likelier(const LogitTile& tile) const;

 private:
  // By the tile's highest logit, when it may be chosen.
  void raise_floors(int lane);
  void find_least_noised(int lane);

  const PanelStatistics* statistics_;
  ChoiceRow* const* rows_;
  int num_rows_;
  int panels_;  // added since the part began
  Masses masses_;
  alignas(64) float highest_[kRowLanes];
  float chosen_highest_[kRowLanes], nucleus_floor_[kRowLanes];  // of all that is known of the rows
  RowBounds bounds_;
  RowsReached reached_;
  NoiseLanes noise_;
  DistributionLanes distribution_;
  MassLanes mass_;
  BestCandidates::Staged staged_[kMaxPanelRows];
};

// Those of all chunks. Each thread has its own and keeps them from part to part, with the candidates staged there: a
// lock of every row at the end of every part would cost more than finding its candidates.
class ThreadLanes {
 public:
  explicit ThreadLanes(const std::vector<RowChunk>& chunks);

  // The calling thread's, one for each chunk.
  RowLanes* mine();

  // When all parts are finished: what threads have staged of row r. By any thread.
  void hand_over(std::int64_t r, ChoiceRow& row) const;

 private:
  const std::vector<RowChunk>& chunks_;
  std::vector<std::int32_t> chunk_of_row_;
  std::mutex mutex_;
  std::vector<RowLanes*> threads_;
};

}  // namespace llada

// The head's logits of some rows, panel by panel: to be rounded to the dtype of hidden, or, where a panel has to change
// after that, rounded, with the bias added, and minus infinity at forbidden tokens and past the vocabulary's end.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cpu/scratch.h"
#include "cpu/wide_product.h"
#include "token_confidence/panel_statistics.h"
#include "token_confidence/sparse_bias.h"
#include "token_confidence/token_confidence.h"

namespace llada {

// What forbidden and bias hold, checked and sorted. Throws ValueError.
struct LogitChanges {
  explicit LogitChanges(const TokenConfidenceArgs& args);

  std::vector<std::int64_t> forbidden;  // each once
  SparseBias bias;
};

// A panel's logits [rows][32] of a chunk of rows.
struct LogitTile {
  std::int64_t first_token;
  float* logits;
  bool rounded;  // to the dtype of hidden

  float* row(int i) const { return logits + i * kPanelColumns; }
};

class HeadLogits {
 public:
  // Of all rows, or of those picked.
  HeadLogits(const TokenConfidenceArgs& args, const LogitChanges& changes, std::span<const std::int32_t> picked = {});

  std::int64_t panels() const { return weights_.panels(); }
  std::int64_t rows() const { return count_; }

  const std::vector<RowChunk>& chunks() const { return chunks_; }

  // Before run: the rows of chunks [begin, end) of those that have to be packed.
  std::int64_t chunks_to_pack() const { return wide_.gemm == nullptr ? static_cast<std::int64_t>(chunks_.size()) : 0; }
  void pack(std::int64_t begin, std::int64_t end) { pack_chunks(weights_, source_, chunks_, begin, end, rows_.data()); }

  // Calls visit(c, tile) with the rows, at most 12, of each chunk c for panels [begin, end), in order. Both are even,
  // or the end of all.
  template <class Visit>
  void run(std::int64_t begin, std::int64_t end, const Visit& visit) const {
    auto* next = thread_scratch<struct NextBias, const SparseBias::Entry*>(count_);
    for (std::int64_t r = 0; r < count_ && !changes_.bias.empty(); ++r) {
      next[r] = changes_.bias.first_from(row_of(r), begin * kPanelColumns);
    }
    const auto epilogue = [&](const RowChunk& chunk, std::int64_t panel, float* tile) {
      const bool changed = changed_[panel] != 0;
      if (changed) change(tile, chunk.num_rows, panel, next + chunk.first_row);
      visit(&chunk - chunks_.data(), LogitTile{panel * kPanelColumns, tile, changed || wide_logits_});
    };
    const auto chunks = static_cast<std::int64_t>(chunks_.size());
    if (wide_.gemm != nullptr)
      return run_wide({wide_, weights_, source_, chunks_}, 0, chunks, begin / 2, (end + 1) / 2, epilogue);
    run_group({weights_, rows_.data(), chunks_}, 0, chunks, begin, end, epilogue);
  }

 private:
  std::int64_t row_of(std::int64_t r) const { return picked_.empty() ? r : picked_[r]; }
  // Of a panel that has to: rounds the tile first.
  void change(float* tile, int rows, std::int64_t panel, const SparseBias::Entry** next) const;

  const TokenConfidenceArgs& args_;
  const LogitChanges& changes_;
  std::span<const std::int32_t> picked_;
  std::int64_t count_;
  const PanelStatistics& statistics_;
  PanelWeights weights_;
  WideKernel wide_;  // or none
  std::vector<RowChunk> chunks_;
  std::vector<char> changed_;    // of each panel
  bool wide_logits_;             // need no rounding
  Scratch<std::uint32_t> rows_;  // packed, or as they lie in memory
  RowSource source_;
};

}  // namespace llada

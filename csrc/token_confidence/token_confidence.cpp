// The vocabulary is cut into fixed parts (they depend on V alone); threads take parts, each part has its own sums of
// every row, and parts are merged in order: the bits do not depend on the threads. Choices are the largest of what is
// compared in one order only, and are shared by the parts.
//
//   part p:  hidden x panels of 32 tokens (each read once) --> tile [<= 12 rows][32] --> sums and choices of its rows,
//                                                                                        a vector's lane a row
//
// A row keeps its two most probable tokens; under top_k and top_p as many as that, or kCandidates, in O(R * top_k)
// memory; fewer where top_p and the likeliest token tell that the others are outside. With top_k these are all that
// noise may choose; with top_p alone they are as long as they have that share of the mass, which streams by as well.
// Where they have not, all of them are in the nucleus, and so is the choice of noise over the whole vocabulary, w, if
// what is likelier than w has a smaller share. That is one more pass over the head, for such rows alone, and the pass
// draws the next w, from what is likelier than this one: were this one outside, so would be all that is less likely. It
// is outside with probability 1 - top_p, and the set shrinks each time.
// Neither pass draws noise for logits so far below the likeliest that they are outside.
#include "token_confidence/token_confidence.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "common/check.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "token_confidence/choice_rows.h"
#include "token_confidence/head_logits.h"

namespace llada {
namespace {

constexpr const char* kOp = "token_confidence";
constexpr std::int64_t kCandidates = 256, kFewSorted = 16, kSortedGrowth = 4;
constexpr float kNone = -std::numeric_limits<float>::infinity();

std::vector<RowNoise> row_noise(const TokenConfidenceArgs& args) {
  std::vector<RowNoise> noise;
  for (std::int64_t row = 0; row < args.hidden.size(0); ++row) {
    double temperature = args.temperature;
    if (args.temperatures.defined()) {
      const std::int64_t at = row * args.temperatures.stride(0);
      const bool wide = args.temperatures.dtype == DType::kFloat64;
      temperature = wide ? args.temperatures.as<double>()[at] : args.temperatures.as<float>()[at];
      require(kOp, "temperature", temperature >= 0.0 && temperature <= 1e30, "finite and at least 0",
              std::to_string(temperature));
    }
    const ArrayView& keys = args.noise_keys;
    const std::int64_t key = keys.defined() ? keys.as<std::int64_t>()[row * keys.stride(0)] : row;
    noise.push_back({temperature, GumbelStream(args.seed, key)});
  }
  return noise;
}

// How panels are cut into parts, in pairs: 64 equal ones, of which the last are cut again, so that threads which take
// one after another end together. Fewer, and equal, where there are not enough panels.
class VocabularyParts {
 public:
  explicit VocabularyParts(std::int64_t panels) : panels_(panels), pairs_((panels + 1) / 2) {}

  std::int64_t count() const { return graded() ? kWhole + kHalves + kQuarters : std::min(pairs_, kParts); }

  // Of part count(), all panels.
  std::int64_t first_panel(std::int64_t part) const {
    if (!graded()) return std::min(2 * (pairs_ * part / count()), panels_);
    const std::int64_t halves = std::clamp<std::int64_t>(part - kWhole, 0, kHalves);
    const std::int64_t quarters = std::max<std::int64_t>(part - kWhole - kHalves, 0);
    const std::int64_t before = 4 * std::min(part, kWhole) + 2 * halves + quarters;
    return std::min(2 * (pairs_ * before / (4 * kParts)), panels_);
  }

 private:
  static constexpr std::int64_t kParts = 64, kHalves = 4, kQuarters = 8, kWhole = kParts - kHalves / 2 - kQuarters / 4;

  bool graded() const { return pairs_ >= 4 * kParts; }

  std::int64_t panels_, pairs_;
};

// Chooses the tokens of all rows; see the head of the file.
class Choice {
 public:
  explicit Choice(const TokenConfidenceArgs& args)
      : args_(args), changes_(args), rows_(args.hidden.size(0)), nucleus_(args.top_k == 0 && args.top_p < 1.0) {
    const std::vector<RowNoise> noise = row_noise(args);
    for (std::size_t row = 0; row < rows_.size(); ++row) {
      rows_[row].noise = noise[row];
      if (nucleus_) rows_[row].nucleus_depth = nucleus_depth(args.top_p, args.vocabulary, noise[row].temperature);
      const std::int64_t wanted = args.top_k > 0 ? args.top_k : args.top_p < 1.0 ? kCandidates : 2;
      const std::int64_t capacity = noise[row].temperature > 0.0 ? std::max<std::int64_t>(wanted, 2) : 2;
      rows_[row].candidates.start(std::min(capacity, args.vocabulary), statistics_);
    }
  }

  void run() {
    if (rows_.empty()) return;
    std::vector<std::int32_t> pending = stream_all();
    while (!pending.empty()) pending = stream_likelier(pending);
  }

 private:
  // Makes the mask token minus infinity; whether it is one of them.
  bool keep_choosable(const LogitTile& tile, int rows) const {
    const std::int64_t within = args_.mask_token - tile.first_token;
    if (within < 0 || within >= kPanelColumns) return false;
    for (int i = 0; i < rows; ++i) tile.row(i)[within] = kNone;
    return true;
  }

  // The logits of these rows, part by part: visit(lanes, tile, rows of it) for every tile. Then decide(r, sum of its
  // parts) for each of the rows, by any thread; returns the places in `rows` of those for which it is false.
  template <class Visit, class Decide>
  std::vector<std::int32_t> stream(HeadLogits& logits, const std::vector<ChoiceRow*>& rows, Masses masses,
                                   const Visit& visit, const Decide& decide) const {
    constexpr std::int64_t kRows = 2;  // decided at a time
    const std::vector<RowChunk>& chunks = logits.chunks();
    const VocabularyParts cut(logits.panels());
    const std::int64_t count = logits.rows(), masked_panel = args_.mask_token / kPanelColumns;
    std::vector<RowPart> parts(cut.count() * count);
    ThreadLanes threads(chunks);
    const auto add = [&](std::int64_t at) {
      const std::int64_t begin = cut.first_panel(at), end = cut.first_panel(at + 1);
      const bool masked = args_.mask_token >= 0 && begin <= masked_panel && masked_panel < end;
      const Masses here = masses == Masses::kDistributed && masked ? Masses::kOwn : masses;
      RowLanes* lanes = threads.mine();
      for (std::size_t c = 0; c < chunks.size(); ++c) {
        lanes[c].start(statistics_, rows.data() + chunks[c].first_row, chunks[c].num_rows, here);
      }
      logits.run(begin, end, [&](std::int64_t c, const LogitTile& tile) { visit(lanes[c], tile, chunks[c].num_rows); });
      for (std::size_t c = 0; c < chunks.size(); ++c) lanes[c].finish(parts.data() + at * count + chunks[c].first_row);
    };
    std::vector<char> open(count);
    const auto decide_row = [&](std::int64_t r) {
      threads.hand_over(r, *rows[r]);
      RowPart sum = parts[r];
      for (std::int64_t at = r + count; at < static_cast<std::int64_t>(parts.size()); at += count) {
        sum.distribution.merge(parts[at].distribution);
        sum.mass.merge(parts[at].mass, rows[r]->noise.temperature);
      }
      open[r] = !decide(r, sum);
    };
    const auto each = [](const auto& body) {
      return [&body](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) body(i);
      };
    };
    const std::int64_t operations = logits.panels() * kPanelColumns * count * args_.hidden.size(1);
    parallel_phases(
        operations / kProductsPerOperation / grain_of(1),
        {{logits.chunks_to_pack(), 1, [&](std::int64_t begin, std::int64_t end) { logits.pack(begin, end); }},
         {cut.count(), 1, each(add)},
         {count, kRows, each(decide_row)}});
    std::vector<std::int32_t> undecided;
    for (std::int64_t r = 0; r < count; ++r) {
      if (open[r] != 0) undecided.push_back(static_cast<std::int32_t>(r));
    }
    return undecided;
  }

  // Writes the rows and returns those of which something has to be known first.
  std::vector<std::int32_t> stream_all() {
    bool noised = false, unscaled = true;
    std::vector<ChoiceRow*> rows;
    for (ChoiceRow& row : rows_) {
      rows.push_back(&row);
      noised |= args_.top_k == 0 && row.noise.temperature > 0.0;
      unscaled &= row.noise.temperature == 1.0;
    }
    const Masses masses = !noised || !nucleus_ ? Masses::kNone : unscaled ? Masses::kDistributed : Masses::kOwn;
    HeadLogits logits(args_, changes_);
    const auto visit = [&](RowLanes& lanes, const LogitTile& tile, int count) {
      lanes.find_highest(tile);
      lanes.add_distributions(tile);
      if (keep_choosable(tile, count)) lanes.find_highest(tile);
      lanes.add_masses(tile);
      lanes.offer_candidates(tile);
      if (noised) lanes.offer_noised(tile);
    };
    return stream(logits, rows, masses, visit, [&](std::int64_t r, const RowPart& sum) {
      rows_[r].distribution = sum.distribution;
      rows_[r].nucleus = args_.top_p * sum.mass.sum();
      return decide(r);
    });
  }

  bool decide(std::int64_t r) {
    ChoiceRow& row = rows_[r];
    row.candidates.finish();
    const bool noised = row.noise.temperature > 0.0;
    const std::span<const std::uint64_t> keys = row.candidates.largest(noised && nucleus_ ? kFewSorted : 2);
    row.choice = noised ? row.noised.key() : keys.empty() ? 0 : keys[0];
    if (!std::isfinite(row.distribution.logsumexp()) || keys.empty() || !noised) {
      write(r);
      return true;
    }
    auto kept = keys;
    if (args_.top_k > 0) {
      kept = row.candidates.largest(args_.top_k);
      row.nucleus = args_.top_p * mass_of(kept, row.noise.temperature);
    }
    if (args_.top_p < 1.0) {
      std::size_t size = nucleus_size(kept, row.noise.temperature, row.nucleus);
      while (args_.top_k == 0 && size > kept.size() && static_cast<std::int64_t>(kept.size()) < row.candidates.size()) {
        kept = row.candidates.largest(kSortedGrowth * static_cast<std::int64_t>(kept.size()));
        size = nucleus_size(kept, row.noise.temperature, row.nucleus);
      }
      if (args_.top_k == 0 && size > kept.size() && row.choice < kept.back()) return false;
      kept = kept.first(std::min(size, kept.size()));
    }
    const bool cut = args_.top_k > 0 || args_.top_p < 1.0;
    if (cut && row.choice < kept.back()) row.choice = best_noised(kept, row.noise);
    write(r);
    return true;
  }

  static std::uint64_t best_noised(std::span<const std::uint64_t> keys, const RowNoise& noise) {
    NoisedChoice best;
    for (const std::uint64_t key : keys) best.offer(key, noise);
    return best.key();
  }

  // One more pass for these rows; returns those that need another.
  std::vector<std::int32_t> stream_likelier(const std::vector<std::int32_t>& pending) {
    std::vector<ChoiceRow*> rows;
    for (const std::int32_t r : pending) {
      rows.push_back(&rows_[r]);
      rows_[r].noised.clear();
    }
    HeadLogits logits(args_, changes_, pending);
    const auto visit = [&](RowLanes& lanes, const LogitTile& tile, int count) {
      keep_choosable(tile, count);
      if (!lanes.keep_likelier(tile)) return;
      lanes.find_highest(tile);
      lanes.offer_noised(tile);
      lanes.add_masses(tile);
    };
    std::vector<std::int32_t> open = stream(logits, rows, Masses::kOwn, visit, [&](std::int64_t r, const RowPart& sum) {
      ChoiceRow& row = *rows[r];
      const bool within = sum.mass.sum() < row.nucleus;
      if (!within) row.choice = row.noised.key();
      const bool decided = within || row.choice >= row.candidates.largest(kCandidates).back();
      if (decided) write(pending[r]);
      return decided;
    });
    for (std::int32_t& r : open) r = pending[r];
    return open;
  }

  // Token -1 and NaN where the distribution is not finite or nothing may be chosen.
  void write(std::int64_t r) {
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
    ChoiceRow& row = rows_[r];
    const std::span<const std::uint64_t> keys = row.candidates.largest(2);
    const double logsumexp = row.distribution.logsumexp();
    const bool good = std::isfinite(logsumexp) && row.choice != 0;
    const std::uint64_t chosen = good ? row.choice : 0;
    const std::uint64_t other = !good ? 0 : chosen != keys[0] ? keys[0] : keys.size() > 1 ? keys[1] : 0;
    const auto or_nan = [good](double value) { return good ? static_cast<float>(value) : kNan; };
    args_.token.as<std::int32_t>()[r] = token_of(chosen);
    args_.logprob.as<float>()[r] = or_nan(logit_of(chosen) - logsumexp);
    args_.runner_up.as<std::int32_t>()[r] = token_of(other);
    args_.runner_up_logprob.as<float>()[r] = or_nan(logit_of(other) - logsumexp);
    args_.entropy.as<float>()[r] = or_nan(row.distribution.entropy());
    args_.logsumexp.as<float>()[r] = or_nan(logsumexp);
  }

  const TokenConfidenceArgs& args_;
  const PanelStatistics& statistics_ = select_panel_statistics(active_isa());
  LogitChanges changes_;
  std::vector<ChoiceRow> rows_;
  bool nucleus_;  // of the whole vocabulary
};

}  // namespace

void check_token_confidence(const TokenConfidenceArgs& args, const Backend& backend) {
  Check(kOp, "hidden", args.hidden).on(backend).floating(backend).shape({kAnySize, kAnySize});
  Check(kOp, "hidden", args.hidden).last_dim_contiguous();
  const std::int64_t rows = args.hidden.size(0), hidden = args.hidden.size(1), vocabulary = args.vocabulary;
  require(kOp, "lm_head", vocabulary >= 1 && vocabulary < (std::int64_t{1} << 31) && hidden >= 1,
          "of at least one token and one column", shape_text(args.weight));
  if (!args.packed) {
    Check(kOp, "lm_head", args.weight).on(backend).dtype({args.hidden.dtype}).shape({vocabulary, hidden});
    Check(kOp, "lm_head", args.weight).last_dim_contiguous();
  }
  require(kOp, "temperature", args.temperature >= 0.0 && args.temperature <= 1e30, "finite and at least 0",
          std::to_string(args.temperature));
  if (args.temperatures.defined())
    Check(kOp, "temperature", args.temperatures).on(backend).dtype({DType::kFloat32, DType::kFloat64}).shape({rows});
  require(kOp, "top_k", args.top_k >= 0, "at least 1, or 0 for none", std::to_string(args.top_k));
  require(kOp, "top_p", args.top_p > 0.0 && args.top_p <= 1.0, "above 0 and at most 1", std::to_string(args.top_p));
  require(kOp, "mask_token_id", args.mask_token >= -1 && args.mask_token < vocabulary,
          "a token id below " + std::to_string(vocabulary), std::to_string(args.mask_token));
  if (args.noise_keys.defined())
    Check(kOp, "noise_keys", args.noise_keys).on(backend).dtype({DType::kInt64}).shape({rows});
  if (args.forbidden.defined()) {
    Check(kOp, "forbidden", args.forbidden).on(backend).dtype({DType::kInt32, DType::kInt64}).shape({kAnySize});
  }
  if (args.bias_tokens.defined() || args.bias_values.defined()) {
    Check(kOp, "bias tokens", args.bias_tokens).on(backend).dtype({DType::kInt64}).shape({rows, kAnySize});
    Check(kOp, "bias values", args.bias_values).on(backend).dtype({DType::kFloat32});
    Check(kOp, "bias values", args.bias_values).shape({rows, args.bias_tokens.size(1)});
  }
  Check(kOp, "token", args.token).on(backend).dtype({DType::kInt32}).shape({rows}).contiguous();
  Check(kOp, "runner_up", args.runner_up).on(backend).dtype({DType::kInt32}).shape({rows}).contiguous();
  const ArrayView* floats[] = {&args.logprob, &args.runner_up_logprob, &args.entropy, &args.logsumexp};
  for (const ArrayView* view : floats)
    Check(kOp, "out", *view).on(backend).dtype({DType::kFloat32}).shape({rows}).contiguous();
}

void token_confidence(const TokenConfidenceArgs& args) {
  check_token_confidence(args, kCpuBackend);
  Choice(args).run();
}

}  // namespace llada

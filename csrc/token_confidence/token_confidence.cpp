// The vocabulary is cut into fixed parts (they depend on V alone); threads take parts, each part has its own summary
// of every row, and parts are merged in order: the bits do not depend on the threads.
//
//   part p:  hidden x panels of 32 tokens (each read once) --> tile [<= 12 rows][32] --> summaries of its rows
#include "token_confidence/token_confidence.h"

#include <algorithm>
#include <string>
#include <vector>

#include "common/bfloat16.h"
#include "common/check.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "cpu/panel_product.h"
#include "cpu/scratch.h"
#include "token_confidence/row_summary.h"

namespace llada {
namespace {

constexpr const char* kOp = "token_confidence";
constexpr std::int64_t kMaxParts = 64;

std::int64_t id_at(const ArrayView& ids, std::int64_t index) {
  const std::int64_t offset = index * ids.stride(0);
  return ids.dtype == DType::kInt64 ? ids.as<std::int64_t>()[offset] : ids.as<std::int32_t>()[offset];
}

// Forbidden tokens, sorted, each once.
std::vector<std::int64_t> check_forbidden(const TokenConfidenceArgs& args) {
  std::vector<std::int64_t> forbidden;
  const std::int64_t vocabulary = args.vocabulary;
  if (args.forbidden.defined()) {
    for (std::int64_t i = 0; i < args.forbidden.size(0); ++i) {
      const std::int64_t id = id_at(args.forbidden, i);
      require(kOp, "forbidden", id >= 0 && id < vocabulary, "token ids below " + std::to_string(vocabulary),
              std::to_string(id));
      forbidden.push_back(id);
    }
  }
  std::sort(forbidden.begin(), forbidden.end());
  forbidden.erase(std::unique(forbidden.begin(), forbidden.end()), forbidden.end());
  const bool mask_extra =
      args.mask_token >= 0 && !std::binary_search(forbidden.begin(), forbidden.end(), args.mask_token);
  require(kOp, "forbidden", static_cast<std::int64_t>(forbidden.size()) + mask_extra < vocabulary,
          "such that a token is left to choose", "all of them forbidden");
  return forbidden;
}

class Stream {
 public:
  Stream(const TokenConfidenceArgs& args, std::vector<std::int64_t> forbidden)
      : args_(args),
        forbidden_(std::move(forbidden)),
        weights_(args.packed ? packed_weights(kOp, "lm_head", args.weight, -1, args.vocabulary, args.hidden.size(1),
                                              false, args.hidden.dtype)
                             : plain_weights(args.weight, false)),
        rows_(args.hidden.size(0) * weights_.words_per_row()) {
    const std::int32_t offsets[2] = {0, static_cast<std::int32_t>(args.hidden.size(0))};
    cut_rows(offsets, 1, chunks_);
    parallel_for(0, static_cast<std::int64_t>(chunks_.size()), grain_of(args.hidden.size(1) * kMaxPanelRows),
                 [&](std::int64_t begin, std::int64_t end) {
                   pack_chunks(weights_, {args.hidden.dtype, args.hidden.data, args.hidden.stride(0), nullptr}, chunks_,
                               begin, end, rows_.data());
                 });
    for (std::int64_t row = 0; row < args.hidden.size(0) && args.temperature > 0.0; ++row) {
      noise_.emplace_back(args.seed, args.noise_keys.defined() ? id_at(args.noise_keys, row) : row);
    }
  }

  std::int64_t panels() const { return weights_.panels(); }

  // Adds panels [begin, end) to the summaries of all rows.
  void run(std::int64_t begin, std::int64_t end, RowSummary* summaries) const {
    run_group({weights_, rows_.data(), chunks_}, 0, static_cast<std::int64_t>(chunks_.size()), begin, end,
              [&](const RowChunk& chunk, std::int64_t panel, float* tile) {
                for (int r = 0; r < chunk.num_rows; ++r) {
                  add(tile + r * kPanelColumns, panel, chunk.first_row + r, summaries);
                }
              });
  }

 private:
  void add(float* logits, std::int64_t panel, std::int64_t row, RowSummary* summaries) const {
    constexpr float kNone = -std::numeric_limits<float>::infinity();
    const std::int64_t first = panel * kPanelColumns, end = first + kPanelColumns;
    if (args_.hidden.dtype == DType::kBFloat16) statistics_.round_to_bfloat16(logits);
    for (int c = weights_.columns_of(panel); c < kPanelColumns; ++c) logits[c] = kNone;
    const auto from = std::lower_bound(forbidden_.begin(), forbidden_.end(), first);
    for (auto id = from; id != forbidden_.end() && *id < end; ++id) logits[*id - first] = kNone;
    RowSummary& summary = summaries[row];
    float highest = summary.add_to_distribution(logits, statistics_);
    if (args_.mask_token >= first && args_.mask_token < end) {
      logits[args_.mask_token - first] = kNone;
      highest = statistics_.highest(logits);
    }
    summary.offer(logits, highest, first);
    if (args_.temperature > 0.0) summary.offer_noised(logits, highest, first, args_.temperature, noise_[row]);
  }

  const TokenConfidenceArgs& args_;
  const PanelStatistics& statistics_ = select_panel_statistics(active_isa());
  std::vector<std::int64_t> forbidden_;
  PanelWeights weights_;
  std::vector<RowChunk> chunks_;
  Scratch<std::uint32_t> rows_;
  std::vector<GumbelStream> noise_;
};

void write(const TokenConfidenceArgs& args, std::int64_t row, const RowSummary::Result& result) {
  args.token.as<std::int32_t>()[row] = result.token;
  args.logprob.as<float>()[row] = result.logprob;
  args.runner_up.as<std::int32_t>()[row] = result.runner_up;
  args.runner_up_logprob.as<float>()[row] = result.runner_up_logprob;
  args.entropy.as<float>()[row] = result.entropy;
  args.logsumexp.as<float>()[row] = result.logsumexp;
}

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
  require(kOp, "mask_token_id", args.mask_token >= -1 && args.mask_token < vocabulary,
          "a token id below " + std::to_string(vocabulary), std::to_string(args.mask_token));
  if (args.noise_keys.defined())
    Check(kOp, "noise_keys", args.noise_keys).on(backend).dtype({DType::kInt64}).shape({rows});
  if (args.forbidden.defined()) {
    Check(kOp, "forbidden", args.forbidden).on(backend).dtype({DType::kInt32, DType::kInt64}).shape({kAnySize});
  }
  Check(kOp, "token", args.token).on(backend).dtype({DType::kInt32}).shape({rows}).contiguous();
  Check(kOp, "runner_up", args.runner_up).on(backend).dtype({DType::kInt32}).shape({rows}).contiguous();
  const ArrayView* floats[] = {&args.logprob, &args.runner_up_logprob, &args.entropy, &args.logsumexp};
  for (const ArrayView* view : floats)
    Check(kOp, "out", *view).on(backend).dtype({DType::kFloat32}).shape({rows}).contiguous();
}

void token_confidence(const TokenConfidenceArgs& args) {
  check_token_confidence(args, kCpuBackend);
  const Stream stream(args, check_forbidden(args));
  const std::int64_t rows = args.hidden.size(0), panels = stream.panels();
  if (rows == 0) return;
  const std::int64_t part_panels = (panels + kMaxParts - 1) / kMaxParts;
  const std::int64_t parts = (panels + part_panels - 1) / part_panels;
  std::vector<RowSummary> summaries(parts * rows);
  const std::int64_t part_operations = part_panels * kPanelColumns * rows * args.hidden.size(1) / kProductsPerOperation;
  parallel_for(0, parts, grain_of(part_operations), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t part = begin; part < end; ++part) {
      stream.run(part * part_panels, std::min((part + 1) * part_panels, panels), summaries.data() + part * rows);
    }
  });
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t part = 1; part < parts; ++part) summaries[row].merge(summaries[part * rows + row]);
    write(args, row, summaries[row].result(args.temperature > 0.0));
  }
}

}  // namespace llada

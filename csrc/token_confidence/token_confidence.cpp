// The vocabulary is cut into fixed parts (they depend on V alone); threads take parts, each part has its own summary
// of every row, and parts are merged in order: the bits do not depend on the threads.
//
//   part p:  for each panel of 32 tokens (read once):  for each 12 rows:  tile [12][32] = hidden x panel -> summaries
#include "token_confidence/token_confidence.h"

#include <algorithm>
#include <string>
#include <vector>

#include "common/bfloat16.h"
#include "common/check.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "cpu/panel_gemm.h"
#include "cpu/panel_weights.h"
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
    Check(kOp, "forbidden", args.forbidden).cpu().dtype({DType::kInt32, DType::kInt64}).shape({kAnySize});
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

void check(const TokenConfidenceArgs& args) {
  Check(kOp, "hidden", args.hidden).cpu().dtype({DType::kFloat32, DType::kBFloat16}).shape({kAnySize, kAnySize});
  Check(kOp, "hidden", args.hidden).last_dim_contiguous();
  const std::int64_t rows = args.hidden.size(0), hidden = args.hidden.size(1), vocabulary = args.vocabulary;
  require(kOp, "lm_head", vocabulary >= 1 && vocabulary < (std::int64_t{1} << 31) && hidden >= 1,
          "of at least one token and one column", shape_text(args.weight));
  if (args.packed) {
    Check(kOp, "lm_head", args.weight).cpu().dtype({args.hidden.dtype});
    check_packed(kOp, "lm_head", args.weight, -1, vocabulary, hidden, false);
  } else {
    Check(kOp, "lm_head", args.weight).cpu().dtype({args.hidden.dtype}).shape({vocabulary, hidden});
    Check(kOp, "lm_head", args.weight).last_dim_contiguous();
  }
  require(kOp, "temperature", args.temperature >= 0.0 && args.temperature <= 1e30, "finite and at least 0",
          std::to_string(args.temperature));
  require(kOp, "mask_token_id", args.mask_token >= -1 && args.mask_token < vocabulary,
          "a token id below " + std::to_string(vocabulary), std::to_string(args.mask_token));
  if (args.noise_keys.defined()) Check(kOp, "noise_keys", args.noise_keys).cpu().dtype({DType::kInt64}).shape({rows});
  Check(kOp, "token", args.token).cpu().dtype({DType::kInt32}).shape({rows}).contiguous();
  Check(kOp, "runner_up", args.runner_up).cpu().dtype({DType::kInt32}).shape({rows}).contiguous();
  const ArrayView* floats[] = {&args.logprob, &args.runner_up_logprob, &args.entropy, &args.logsumexp};
  for (const ArrayView* view : floats)
    Check(kOp, "out", *view).cpu().dtype({DType::kFloat32}).shape({rows}).contiguous();
}

class Stream {
 public:
  Stream(const TokenConfidenceArgs& args, std::vector<std::int64_t> forbidden)
      : args_(args),
        forbidden_(std::move(forbidden)),
        weights_(args.packed ? packed_weights(args.weight, args.vocabulary, args.hidden.size(1), false)
                             : plain_weights(args.weight, false)),
        gemm_(select_panel_gemm(args.hidden.dtype, active_isa())),
        tiles_((args.hidden.size(0) + kMaxPanelRows - 1) / kMaxPanelRows),
        rows_(tiles_ * kMaxPanelRows * weights_.lanes()) {
    parallel_for(0, tiles_, grain_of(kMaxPanelRows * weights_.lanes()), [this](std::int64_t begin, std::int64_t end) {
      for (std::int64_t tile = begin; tile < end; ++tile) pack_tile(tile);
    });
    for (std::int64_t row = 0; row < args.hidden.size(0) && args.temperature > 0.0; ++row) {
      noise_.emplace_back(args.seed, args.noise_keys.defined() ? id_at(args.noise_keys, row) : row);
    }
  }

  std::int64_t panels() const { return weights_.panels(); }

  // Adds panels [begin, end) to the summaries of all rows.
  void run(std::int64_t begin, std::int64_t end, RowSummary* summaries) const {
    const Scratch<std::uint32_t> scratch(args_.packed ? 0 : weights_.panel_size());
    float logits[kMaxPanelRows][kPanelColumns];
    for (std::int64_t p = begin; p < end; ++p) {
      const std::uint32_t* panel = weights_.panel(0, p, scratch.data());
      for (std::int64_t tile = 0; tile < tiles_; ++tile) {
        const std::uint32_t* rows = rows_.data() + tile * kMaxPanelRows * weights_.lanes();
        gemm_({rows, panel, tile_rows(tile), weights_.lanes(), logits[0], kPanelColumns});
        for (int r = 0; r < tile_rows(tile); ++r) add(logits[r], p, tile * kMaxPanelRows + r, summaries);
      }
    }
  }

 private:
  int tile_rows(std::int64_t tile) const {
    return static_cast<int>(std::min<std::int64_t>(kMaxPanelRows, args_.hidden.size(0) - tile * kMaxPanelRows));
  }

  void pack_tile(std::int64_t tile) const {
    const ArrayView& hidden = args_.hidden;
    const char* source = hidden.as<char>() + tile * kMaxPanelRows * hidden.stride(0) * dtype_bytes(hidden.dtype);
    pack_rows(hidden.dtype, source, hidden.stride(0), nullptr, tile_rows(tile), hidden.size(1),
              rows_.data() + tile * kMaxPanelRows * weights_.lanes());
  }

  void add(float (&logits)[kPanelColumns], std::int64_t panel, std::int64_t row, RowSummary* summaries) const {
    constexpr float kNone = -std::numeric_limits<float>::infinity();
    const std::int64_t first = panel * kPanelColumns, end = first + kPanelColumns;
    if (args_.hidden.dtype == DType::kBFloat16) {
      for (float& logit : logits) logit = to_float(from_float<bfloat16>(logit));
    }
    for (int c = weights_.columns_of(panel); c < kPanelColumns; ++c) logits[c] = kNone;
    const auto from = std::lower_bound(forbidden_.begin(), forbidden_.end(), first);
    for (auto id = from; id != forbidden_.end() && *id < end; ++id) logits[*id - first] = kNone;
    RowSummary& summary = summaries[row];
    summary.add_to_distribution(logits);
    if (args_.mask_token >= first && args_.mask_token < end) logits[args_.mask_token - first] = kNone;
    summary.offer(logits, first);
    if (args_.temperature > 0.0) summary.offer_noised(logits, first, args_.temperature, noise_[row]);
  }

  const TokenConfidenceArgs& args_;
  std::vector<std::int64_t> forbidden_;
  PanelWeights weights_;
  PanelGemm gemm_;
  std::int64_t tiles_;
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

void token_confidence(const TokenConfidenceArgs& args) {
  check(args);
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

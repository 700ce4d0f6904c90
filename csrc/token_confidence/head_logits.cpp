#include "token_confidence/head_logits.h"

#include <algorithm>
#include <limits>
#include <string>

#include "common/isa.h"

namespace llada {
namespace {

constexpr const char* kOp = "token_confidence";

// Forbidden tokens, sorted, each once.
std::vector<std::int64_t> check_forbidden(const TokenConfidenceArgs& args) {
  std::vector<std::int64_t> forbidden;
  const std::int64_t vocabulary = args.vocabulary;
  for (std::int64_t i = 0; args.forbidden.defined() && i < args.forbidden.size(0); ++i) {
    const std::int64_t offset = i * args.forbidden.stride(0);
    const std::int64_t id = args.forbidden.dtype == DType::kInt64 ? args.forbidden.as<std::int64_t>()[offset]
                                                                  : args.forbidden.as<std::int32_t>()[offset];
    require(kOp, "forbidden", id >= 0 && id < vocabulary, "token ids below " + std::to_string(vocabulary),
            std::to_string(id));
    forbidden.push_back(id);
  }
  std::sort(forbidden.begin(), forbidden.end());
  forbidden.erase(std::unique(forbidden.begin(), forbidden.end()), forbidden.end());
  const bool mask_extra =
      args.mask_token >= 0 && !std::binary_search(forbidden.begin(), forbidden.end(), args.mask_token);
  require(kOp, "forbidden", static_cast<std::int64_t>(forbidden.size()) + mask_extra < vocabulary,
          "such that a token is left to choose", "all of them forbidden");
  return forbidden;
}

}  // namespace

LogitChanges::LogitChanges(const TokenConfidenceArgs& args)
    : forbidden(check_forbidden(args)), bias(args.bias_tokens, args.bias_values, args.vocabulary) {}

HeadLogits::HeadLogits(const TokenConfidenceArgs& args, const LogitChanges& changes,
                       std::span<const std::int32_t> picked)
    : args_(args),
      changes_(changes),
      picked_(picked),
      count_(picked.empty() ? args.hidden.size(0) : static_cast<std::int64_t>(picked.size())),
      statistics_(select_panel_statistics(active_isa())),
      weights_(args.packed ? packed_weights(kOp, "lm_head", args.weight, -1, args.vocabulary, args.hidden.size(1),
                                            false, args.hidden.dtype)
                           : plain_weights(args.weight, false)),
      wide_(count_ >= kWideRows ? select_wide(weights_) : WideKernel{}),
      changed_(weights_.panels(), changes.bias.empty() ? 0 : 1),
      wide_logits_(args.hidden.dtype != DType::kBFloat16),
      rows_(wide_.gemm == nullptr || !picked.empty() ? count_ * weights_.words_per_row() : 0),
      source_{args.hidden.dtype, args.hidden.data, args.hidden.stride(0), picked.empty() ? nullptr : picked.data()} {
  cut_rows(count_, wide_.gemm == nullptr ? kMaxPanelRows : wide_.rows, chunks_);
  for (const std::int64_t id : changes.forbidden) changed_[id / kPanelColumns] = 1;
  if (args.vocabulary % kPanelColumns != 0) changed_.back() = 1;
  if (wide_.gemm != nullptr && !picked.empty()) {
    const std::int64_t bytes = dtype_bytes(source_.dtype), row_bytes = weights_.k * bytes;
    auto* copies = reinterpret_cast<char*>(rows_.data());
    for (std::int64_t r = 0; r < count_; ++r) {
      const char* row = static_cast<const char*>(source_.data) + picked[r] * source_.row_stride * bytes;
      std::copy(row, row + row_bytes, copies + r * row_bytes);
    }
    source_ = {source_.dtype, copies, weights_.k, nullptr};
  }
}

void HeadLogits::change(float* tile, int rows, std::int64_t panel, const SparseBias::Entry** next) const {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  const std::int64_t first = panel * kPanelColumns, end = first + kPanelColumns;
  if (!wide_logits_) statistics_.round_to_bfloat16(tile, rows);
  if (!changes_.bias.empty()) {
    for (int i = 0; i < rows; ++i) SparseBias::add(next[i], tile + i * kPanelColumns, first, kPanelColumns);
  }
  const auto forbid = [&](std::int64_t column) {
    for (int i = 0; i < rows; ++i) tile[i * kPanelColumns + column] = kNone;
  };
  for (std::int64_t c = weights_.columns_of(panel); c < kPanelColumns; ++c) forbid(c);
  const auto& forbidden = changes_.forbidden;
  auto id = std::lower_bound(forbidden.begin(), forbidden.end(), first);
  for (; id != forbidden.end() && *id < end; ++id) forbid(*id - first);
}

}  // namespace llada

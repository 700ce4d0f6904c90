#include "token_confidence/token_confidence_cuda.h"

#include <algorithm>
#include <limits>
#include <string>

#include "cuda/launch_report.h"
#include "token_confidence/token_confidence.h"

namespace llada::cuda {
namespace {

constexpr const char* kOp = "token_confidence";
constexpr std::int64_t kPassFloats = 1 << 24, kPassMultiple = 128;  // of the workspace: 64 MB; of the rows of a pass

// One of the whole vocabulary keeps all.
std::int64_t effective_top_k(const TokenConfidenceArgs& args) { return args.top_k < args.vocabulary ? args.top_k : 0; }

constexpr std::int64_t kKeyFloats = sizeof(std::uint64_t) / sizeof(float);

// Floats of workspace for each row.
struct RowFloats {
  std::int64_t parts, open_row = 0, candidates = 0, tile_choices = 0;

  explicit RowFloats(const TokenConfidenceArgs& args) {
    const std::int64_t tiles = (args.vocabulary + kVocabularyTile - 1) / kVocabularyTile, top_k = effective_top_k(args);
    parts = tiles * kTilePartFloats;
    if (top_k > 0 || args.top_p < 1.0) open_row = kOpenRowFloats;
    if (top_k > 0) {
      candidates = kCandidatesPerKept * std::min(top_k, kMaxTopK) * kKeyFloats;
    } else if (args.top_p < 1.0) {
      tile_choices = tiles * kTileChoices * kKeyFloats;
    }
  }

  std::int64_t all() const { return parts + open_row + candidates + tile_choices; }
};

std::int64_t rows_per_pass(const TokenConfidenceArgs& args) {
  const std::int64_t fitting = kPassFloats / std::max<std::int64_t>(RowFloats(args).all(), 1);
  return std::min(args.hidden.size(0), std::max(fitting / kPassMultiple * kPassMultiple, kPassMultiple));
}

void run_pass(const TokenConfidenceArgs& args, const ArrayView& workspace, const Stream& stream, std::int64_t first,
              std::int64_t rows) {
  const ArrayView &hidden = args.hidden, &weight = args.weight;
  const auto row_of = [first](const ArrayView& view) {
    return view.as<char>() + first * view.stride(0) * dtype_bytes(view.dtype);
  };
  TokenConfidenceParams params{};
  params.product = {hidden.dtype, row_of(hidden), hidden.stride(0), weight.data,     0, weight.stride(0), nullptr,
                    nullptr,      rows,           hidden.size(1),   args.vocabulary, 1, stream.handle};
  params.temperature = args.temperature;
  if (args.temperatures.defined()) {
    params.temperatures = row_of(args.temperatures);
    params.wide_temperatures = args.temperatures.dtype == DType::kFloat64;
    params.temperature_stride = args.temperatures.stride(0);
  }
  params.seed = args.seed;
  if (args.noise_keys.defined()) {
    params.noise_keys = reinterpret_cast<const std::int64_t*>(row_of(args.noise_keys));
    params.noise_key_stride = args.noise_keys.stride(0);
  }
  params.first_row = first;
  if (args.forbidden.defined()) {
    params.forbidden = args.forbidden.data;
    params.wide_forbidden = args.forbidden.dtype == DType::kInt64;
    params.forbidden_stride = args.forbidden.stride(0);
    params.forbidden_count = args.forbidden.size(0);
  }
  params.mask_token = args.mask_token;
  if (args.bias_tokens.defined()) {
    const ArrayView &tokens = args.bias_tokens, &values = args.bias_values;
    params.bias_tokens = reinterpret_cast<const std::int64_t*>(row_of(tokens));
    params.bias_values = reinterpret_cast<const float*>(row_of(values));
    params.bias_count = tokens.size(1);
    for (int dim = 0; dim < 2; ++dim) {
      params.bias_token_strides[dim] = tokens.stride(dim);
      params.bias_value_strides[dim] = values.stride(dim);
    }
  }
  params.top_k = effective_top_k(args);
  params.top_p = args.top_p;
  const RowFloats floats(args);
  float* rest = workspace.as<float>();
  const auto take = [&](std::int64_t of_row) {
    float* taken = of_row > 0 ? rest : nullptr;
    rest += rows * of_row;
    return taken;
  };
  params.parts = take(floats.parts);
  params.open_rows = take(floats.open_row);
  params.candidates = reinterpret_cast<std::uint64_t*>(take(floats.candidates));
  params.tile_choices = reinterpret_cast<std::uint64_t*>(take(floats.tile_choices));
  params.token = args.token.as<std::int32_t>() + first;
  params.runner_up = args.runner_up.as<std::int32_t>() + first;
  params.logprob = args.logprob.as<float>() + first;
  params.runner_up_logprob = args.runner_up_logprob.as<float>() + first;
  params.entropy = args.entropy.as<float>() + first;
  params.logsumexp = args.logsumexp.as<float>() + first;
  report(kOp, token_confidence_sm80(params), stream);
}

}  // namespace

std::int64_t token_confidence_workspace(const TokenConfidenceArgs& args) {
  return rows_per_pass(args) * RowFloats(args).all();
}

void token_confidence(const TokenConfidenceArgs& args, const ArrayView& workspace, const Stream& stream) {
  const Backend backend = backend_of(args.hidden);
  require(kOp, "lm_head", !args.packed, "a plain tensor on a GPU", "a packed one");
  check_token_confidence(args, backend);
  require(kOp, "top_k", effective_top_k(args) <= kMaxTopK,
          "at most " + std::to_string(kMaxTopK) + " on a GPU, or the whole vocabulary", std::to_string(args.top_k));
  Check(kOp, "workspace", workspace).on(backend).dtype({DType::kFloat32}).shape({token_confidence_workspace(args)});
  const std::int64_t rows = args.hidden.size(0), step = rows_per_pass(args);
  require(kOp, "hidden", rows <= std::numeric_limits<std::int32_t>::max(), "of fewer than 2^31 rows",
          std::to_string(rows));
  for (std::int64_t first = 0; first < rows; first += step) {
    run_pass(args, workspace, stream, first, std::min(step, rows - first));
  }
}

}  // namespace llada::cuda

#include "attention/attention_cuda.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "attention/attention.h"
#include "cuda/launch_report.h"
#include "cuda/select_path.h"

namespace llada::cuda {
namespace {

constexpr const char* kOp = "attention";
constexpr std::int64_t kFewQueries = 256, kLeastSplitUnits = 2;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// How few queries' keys are cut, so that there are blocks for every SM: a function of one sequence's sizes alone. A
// split is never shorter than the queries are many: sequences that are packed or padded, where keys are no more than
// queries, have one split.
struct KeySplits {
  std::int64_t count, least_units;
};
KeySplits key_splits(const AttentionArgs& args) {
  const std::int64_t queries = args.q.size(1), units = divide_up(args.k.size(1), kSplitKeys);
  const std::int64_t least = std::max(divide_up(queries, kSplitKeys), kLeastSplitUnits);
  const bool whole = args.q.dtype == DType::kFloat32 || args.cu_seqlens.defined() || queries > kFewQueries;
  if (whole || args.out.elements() == 0) return {1, least};
  return {std::clamp<std::int64_t>(divide_up(units, least), 1, kMaxKeySplits), least};
}

std::int64_t workspace_size(const AttentionArgs& args, std::int64_t splits) {
  const std::int64_t rows = args.q.size(0) * args.q.size(1) * args.q.size(2);
  return splits == 1 ? 0 : rows * splits * (args.q.size(3) + 2);
}

HeadsArray heads_array(const ArrayView& view) { return {view.data, view.stride(0), view.stride(1), view.stride(2)}; }

IndexArray index_array(const ArrayView& view) {
  if (!view.defined()) return {};
  return {view.data, view.dtype == DType::kInt64, view.stride(0), view.rank > 1 ? view.stride(1) : 0};
}

bool aligned_to(std::int64_t bytes, const ArrayView& view) {
  const std::int64_t strides = view.stride(0) | view.stride(1) | view.stride(2);
  return (reinterpret_cast<std::intptr_t>(view.data) | strides * dtype_bytes(view.dtype)) % bytes == 0;
}

AttentionParams make_params(const AttentionArgs& args, const ArrayView& workspace, const Stream& stream) {
  const ArrayView &q = args.q, &k = args.k, &v = args.v, &out = args.out, &mask = args.mask;
  AttentionParams params{};
  params.dtype = q.dtype;
  params.q = heads_array(q);
  params.k = heads_array(k);
  params.v = heads_array(v);
  params.out = heads_array(out);
  params.batch = static_cast<int>(q.size(0));
  params.queries = static_cast<int>(q.size(1));
  params.keys = static_cast<int>(k.size(1));
  params.heads = static_cast<int>(q.size(2));
  params.key_heads = static_cast<int>(k.size(2));
  params.depth = static_cast<int>(q.size(3));
  if (mask.defined()) {
    params.mask = mask.as<const std::uint8_t>();
    for (int dim = 0; dim < 4; ++dim) params.mask_strides[dim] = mask.size(dim) == 1 ? 0 : mask.stride(dim);
  }
  params.key_range = index_array(args.key_range);
  params.cu_seqlens = index_array(args.cu_seqlens);
  params.sequences = args.cu_seqlens.defined() ? static_cast<int>(args.cu_seqlens.size(0) - 1) : 1;
  params.block_size = args.block_size;
  // A scale of zero leaves the masked keys' minus infinity alone when it is not quite zero.
  constexpr double kLog2E = 1.44269504088896340736, kLeast = std::numeric_limits<float>::min();
  const double scale = args.scale.value_or(1.0 / std::sqrt(static_cast<double>(params.depth)));
  params.scale_log2 = static_cast<float>(std::max(std::fabs(scale) * kLog2E, kLeast));
  params.negative = scale < 0.0;
  params.aligned = aligned_to(16, q) && aligned_to(16, k) && aligned_to(16, v);
  params.paired = aligned_to(2 * dtype_bytes(out.dtype), out);
  const KeySplits splits = key_splits(args);
  params.splits = static_cast<int>(splits.count);
  params.least_split_units = static_cast<int>(splits.least_units);
  params.outputs = workspace.as<float>();
  params.stream = stream.handle;
  return params;
}

// Heads as planes of a matrix whose rows, at an even distance, are the positions of all sequences: what TMA reads.
bool is_matrix(const ArrayView& view) {
  const std::int64_t position = view.stride(1);
  if (position <= 0 || (view.size(2) > 1 && view.stride(2) <= 0)) return false;
  if (view.size(0) == 1) return true;
  const std::int64_t batch = view.stride(0), rows = batch / position * view.size(0);
  return batch > 0 && batch % position == 0 && rows <= std::numeric_limits<std::int32_t>::max();
}

// Neither padding nor packing changes which kernel serves a row: where keys are no more than queries the answer is that
// of the layout and the head size, else of the number of queries besides.
bool fits_sm90(const AttentionArgs& args, const AttentionParams& params) {
  constexpr int kMaxDepth = 128;
  const bool whole = params.keys <= params.queries || params.queries > kFewQueries;
  return whole && params.dtype != DType::kFloat32 && params.depth <= kMaxDepth && params.keys > 0 && params.aligned &&
         is_matrix(args.q) && is_matrix(args.k) && is_matrix(args.v);
}

using Launcher = int (*)(const AttentionParams&);

Launcher select_launcher(const AttentionArgs& args, const AttentionParams& params, const Backend& backend) {
  if (params.dtype == DType::kFloat32) return attention_fp32_sm80;
  const bool hopper = active_path(backend) == CudaPath::kSm90a;
  return hopper && fits_sm90(args, params) ? attention_sm90 : attention_sm80;
}

}  // namespace

std::int64_t attention_workspace(const AttentionArgs& args) { return workspace_size(args, key_splits(args).count); }

void attention(const AttentionArgs& args, const ArrayView& workspace, const Stream& stream) {
  const Backend backend = backend_of(args.q);
  check_attention(args, backend);
  Check(kOp, "workspace", workspace).on(backend).dtype({DType::kFloat32}).shape({attention_workspace(args)});
  const std::int64_t rows = args.q.size(1) * args.q.size(2), keys = args.k.size(1);
  constexpr std::int64_t kMost = 1 << 30;
  require(kOp, "q", rows < kMost && args.q.size(0) < kMost, "of fewer than 2^30 sequences, and queries of all heads",
          shape_text(args.q));
  require(kOp, "k", keys < kMost, "of fewer than 2^30 keys", std::to_string(keys));
  if (args.out.elements() == 0 || (args.cu_seqlens.defined() && args.cu_seqlens.size(0) == 1)) return;
  const AttentionParams params = make_params(args, workspace, stream);
  report(kOp, select_launcher(args, params, backend)(params), stream);
}

}  // namespace llada::cuda

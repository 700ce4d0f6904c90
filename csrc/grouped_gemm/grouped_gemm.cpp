#include "grouped_gemm/grouped_gemm.h"

#include <cstring>

#include "common/check.h"
#include "grouped_gemm/grouped_product.h"

namespace llada {
namespace {

void check_offsets(const char* op, const ArrayView& view, std::int64_t groups, std::int64_t rows) {
  Check(op, "offsets", view).cpu().dtype({DType::kInt32}).shape({groups + 1}).contiguous();
  const auto* offsets = view.as<const std::int32_t>();
  require(op, "offsets", offsets[0] == 0, "rising from 0", "a first offset of " + std::to_string(offsets[0]));
  for (std::int64_t group = 0; group < groups; ++group) {
    require(op, "offsets", offsets[group] <= offsets[group + 1], "rising",
            std::to_string(offsets[group]) + " before " + std::to_string(offsets[group + 1]));
  }
  require(op, "offsets", offsets[groups] <= rows, "at most the " + std::to_string(rows) + " rows of x_sorted",
          std::to_string(offsets[groups]));
}

PanelWeights checked_plain(const char* op, const char* argument, const GroupedGemmArgs& args, bool paired) {
  const ArrayView& weight = args.weight;
  const Check check(op, argument, weight);
  check.cpu().dtype({args.x.dtype}).shape({kAnySize, kAnySize, args.x.size(1)}).last_dim_contiguous();
  require(op, argument, !paired || weight.size(1) % 2 == 0, "of an even second size", shape_text(weight));
  return plain_weights(weight, paired);
}

PanelWeights checked_packed(const char* op, const char* argument, const GroupedGemmArgs& args, bool paired) {
  const ArrayView &x = args.x, &weight = args.weight;
  require(op, argument, weight.rank > 0, "an array", "a scalar");
  return packed_weights(op, argument, weight, weight.size(0), args.y.size(1), x.size(1), paired, x.dtype);
}

void run(const char* op, const char* weight_name, const GroupedGemmArgs& args, bool paired) {
  const ArrayView &x = args.x, &y = args.y;
  Check(op, "x_sorted", x).cpu().dtype({DType::kFloat32, DType::kBFloat16}).shape({kAnySize, kAnySize});
  Check(op, "x_sorted", x).last_dim_contiguous();
  Check(op, "y", y).cpu().dtype({x.dtype}).shape({x.size(0), kAnySize}).contiguous();
  const PanelWeights weights = (args.packed ? checked_packed : checked_plain)(op, weight_name, args, paired);
  require(op, "y", y.size(1) == weights.columns, std::to_string(weights.columns) + " wide", shape_text(y));
  const std::int64_t groups = args.weight.size(0);
  check_offsets(op, args.offsets, groups, x.size(0));

  const auto* offsets = args.offsets.as<const std::int32_t>();
  run_grouped_product({weights, x.dtype, x.data, x.stride(0), offsets, groups, nullptr, y.data});
  const std::int64_t row_bytes = weights.columns * dtype_bytes(x.dtype), used = offsets[groups];
  if (used < x.size(0)) std::memset(y.as<char>() + used * row_bytes, 0, (x.size(0) - used) * row_bytes);
}

}  // namespace

void grouped_gemm(const GroupedGemmArgs& args) { run("grouped_gemm", "weight", args, false); }
void grouped_swiglu(const GroupedGemmArgs& args) { run("grouped_swiglu", "gate_up_proj", args, true); }

}  // namespace llada

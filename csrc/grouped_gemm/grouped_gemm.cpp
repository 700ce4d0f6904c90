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

void run(const char* op, const char* weight_name, const GroupedGemmArgs& args, bool paired) {
  const ArrayView &x = args.x, &weight = args.weight, &y = args.y;
  Check(op, "x_sorted", x).cpu().dtype({DType::kFloat32, DType::kBFloat16}).shape({kAnySize, kAnySize});
  Check(op, "x_sorted", x).last_dim_contiguous();
  Check(op, weight_name, weight).cpu().dtype({x.dtype}).shape({kAnySize, kAnySize, x.size(1)}).last_dim_contiguous();
  require(op, weight_name, !paired || weight.size(1) % 2 == 0, "of an even second size", shape_text(weight));
  const std::int64_t columns = paired ? weight.size(1) / 2 : weight.size(1);
  Check(op, "y", y).cpu().dtype({x.dtype}).shape({x.size(0), columns}).contiguous();
  check_offsets(op, args.offsets, weight.size(0), x.size(0));

  const auto* offsets = args.offsets.as<const std::int32_t>();
  run_grouped_product(
      {plain_weights(weight, paired), x.dtype, x.data, x.stride(0), offsets, weight.size(0), nullptr, y.data});
  const std::int64_t row_bytes = columns * dtype_bytes(x.dtype), used = offsets[weight.size(0)];
  if (used < x.size(0)) std::memset(y.as<char>() + used * row_bytes, 0, (x.size(0) - used) * row_bytes);
}

}  // namespace

void grouped_gemm(const GroupedGemmArgs& args) { run("grouped_gemm", "weight", args, false); }
void grouped_swiglu(const GroupedGemmArgs& args) { run("grouped_swiglu", "gate_up_proj", args, true); }

}  // namespace llada

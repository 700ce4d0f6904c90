#include "grouped_gemm/grouped_gemm.h"

#include <cstring>
#include <string>

#include "grouped_gemm/grouped_product.h"

namespace llada {
namespace {

struct Op {
  const char* name;
  const char* weight;  // the argument's name
  bool paired;
};
constexpr Op kGemm{"grouped_gemm", "weight", false}, kSwiGlu{"grouped_swiglu", "gate_up_proj", true};

void check(const Op& op, const GroupedGemmArgs& args, const Backend& backend) {
  const ArrayView &x = args.x, &weight = args.weight, &y = args.y;
  Check(op.name, "x_sorted", x).on(backend).floating(backend).shape({kAnySize, kAnySize}).last_dim_contiguous();
  Check(op.name, "y", y).on(backend).dtype({x.dtype}).shape({x.size(0), kAnySize}).contiguous();
  if (args.packed) {
    require(op.name, op.weight, weight.rank > 0, "an array", "a scalar");
  } else {
    const Check checked(op.name, op.weight, weight);
    checked.on(backend).dtype({x.dtype}).shape({kAnySize, kAnySize, x.size(1)}).last_dim_contiguous();
    require(op.name, op.weight, !op.paired || weight.size(1) % 2 == 0, "of an even second size", shape_text(weight));
    const std::int64_t columns = weight.size(1) / (op.paired ? 2 : 1);
    require(op.name, "y", y.size(1) == columns, std::to_string(columns) + " wide", shape_text(y));
  }
  Check(op.name, "offsets", args.offsets).on(backend).dtype({DType::kInt32}).shape({weight.size(0) + 1}).contiguous();
}

void check_values(const char* op, const std::int32_t* offsets, std::int64_t groups, std::int64_t rows) {
  require(op, "offsets", offsets[0] == 0, "rising from 0", "a first offset of " + std::to_string(offsets[0]));
  for (std::int64_t group = 0; group < groups; ++group) {
    require(op, "offsets", offsets[group] <= offsets[group + 1], "rising",
            std::to_string(offsets[group]) + " before " + std::to_string(offsets[group + 1]));
  }
  require(op, "offsets", offsets[groups] <= rows, "at most the " + std::to_string(rows) + " rows of x_sorted",
          std::to_string(offsets[groups]));
}

void run(const Op& op, const GroupedGemmArgs& args) {
  check(op, args, kCpuBackend);
  const ArrayView &x = args.x, &y = args.y, &weight = args.weight;
  const std::int64_t groups = weight.size(0);
  const PanelWeights weights =
      args.packed ? packed_weights(op.name, op.weight, weight, groups, y.size(1), x.size(1), op.paired, x.dtype)
                  : plain_weights(weight, op.paired);
  const auto* offsets = args.offsets.as<const std::int32_t>();
  check_values(op.name, offsets, groups, x.size(0));
  run_grouped_product({weights, x.dtype, x.data, x.stride(0), offsets, groups, nullptr, y.data});
  const std::int64_t row_bytes = weights.columns * dtype_bytes(x.dtype), used = offsets[groups];
  if (used < x.size(0)) std::memset(y.as<char>() + used * row_bytes, 0, (x.size(0) - used) * row_bytes);
}

}  // namespace

void check_grouped_gemm(const GroupedGemmArgs& args, const Backend& backend) { check(kGemm, args, backend); }
void check_grouped_swiglu(const GroupedGemmArgs& args, const Backend& backend) { check(kSwiGlu, args, backend); }

void grouped_gemm(const GroupedGemmArgs& args) { run(kGemm, args); }
void grouped_swiglu(const GroupedGemmArgs& args) { run(kSwiGlu, args); }

}  // namespace llada

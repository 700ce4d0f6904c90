#include "linear/linear.h"

#include <limits>
#include <string>

#include "common/bfloat16.h"
#include "cpu/panel_weights.h"
#include "cpu/thread_scratch.h"
#include "grouped_gemm/grouped_product.h"

namespace llada {
namespace {

constexpr const char* kOp = "linear";

// bias [N] in fp32; null when there is none.
const float* bias_values(const ArrayView& bias) {
  if (!bias.defined() || bias.dtype == DType::kFloat32) return bias.as<const float>();
  const std::int64_t columns = bias.size(0);
  auto* values = thread_scratch<struct BiasScratch, float>(columns);
  for (std::int64_t c = 0; c < columns; ++c) values[c] = to_float(bias.as<const bfloat16>()[c]);
  return values;
}

}  // namespace

Rows check_linear(const LinearArgs& args, const Backend& backend) {
  const ArrayView &x = args.x, &y = args.y;
  Check(kOp, "x", x).on(backend).floating(backend);
  const Rows rows = collapse_rows(kOp, "x", x);
  Check(kOp, "y", y).on(backend).dtype({x.dtype}).contiguous();
  require(kOp, "x", rows.count <= std::numeric_limits<std::int32_t>::max(), "of fewer than 2^31 rows",
          std::to_string(rows.count));
  require(kOp, "y", collapse_rows(kOp, "y", y).count == rows.count, "of as many rows as x", shape_text(y));
  const std::int64_t k = x.size(x.rank - 1), columns = y.size(y.rank - 1);
  if (!args.packed) {
    Check(kOp, "weight", args.weight).on(backend).dtype({x.dtype}).shape({columns, k}).last_dim_contiguous();
  }
  if (args.bias.defined()) Check(kOp, "bias", args.bias).on(backend).dtype({x.dtype}).shape({columns}).contiguous();
  return rows;
}

void linear(const LinearArgs& args) {
  const ArrayView &x = args.x, &y = args.y;
  const Rows rows = check_linear(args, kCpuBackend);
  const std::int64_t k = x.size(x.rank - 1), columns = y.size(y.rank - 1);
  const std::int32_t offsets[2] = {0, static_cast<std::int32_t>(rows.count)};
  const PanelWeights weights = args.packed ? packed_weights(kOp, "weight", args.weight, -1, columns, k, false, x.dtype)
                                           : plain_weights(args.weight, false);
  run_grouped_product({weights, x.dtype, x.data, rows.stride, offsets, 1, bias_values(args.bias), y.data});
}

void pack_linear(const ArrayView& weight, const ArrayView& packed) { pack_weights("pack_linear", weight, packed); }

}  // namespace llada

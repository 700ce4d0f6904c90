#include "linear/linear.h"

#include <limits>

#include "common/bfloat16.h"
#include "common/check.h"
#include "common/rows.h"
#include "cpu/panel_weights.h"
#include "cpu/thread_scratch.h"
#include "grouped_gemm/grouped_product.h"

namespace llada {
namespace {

constexpr const char* kOp = "linear";

// bias [N] in fp32; null when there is none.
const float* bias_values(const ArrayView& bias, DType dtype, std::int64_t columns) {
  if (!bias.defined()) return nullptr;
  Check(kOp, "bias", bias).cpu().dtype({dtype}).shape({columns}).contiguous();
  if (dtype == DType::kFloat32) return bias.as<const float>();
  auto* values = thread_scratch<struct BiasScratch, float>(columns);
  for (std::int64_t c = 0; c < columns; ++c) values[c] = to_float(bias.as<const bfloat16>()[c]);
  return values;
}

}  // namespace

void linear(const LinearArgs& args) {
  const ArrayView &x = args.x, &y = args.y;
  Check(kOp, "x", x).cpu().dtype({DType::kFloat32, DType::kBFloat16});
  const Rows rows = collapse_rows(kOp, "x", x);
  const std::int64_t k = x.size(x.rank - 1), columns = y.size(y.rank - 1);
  Check(kOp, "y", y).cpu().dtype({x.dtype}).contiguous();
  if (!args.packed) Check(kOp, "weight", args.weight).cpu().dtype({x.dtype}).shape({columns, k}).last_dim_contiguous();
  require(kOp, "x", rows.count <= std::numeric_limits<std::int32_t>::max(), "of fewer than 2^31 rows",
          std::to_string(rows.count));
  require(kOp, "y", collapse_rows(kOp, "y", y).count == rows.count, "of as many rows as x", shape_text(y));

  const std::int32_t offsets[2] = {0, static_cast<std::int32_t>(rows.count)};
  const PanelWeights weights = args.packed ? packed_weights(kOp, "weight", args.weight, -1, columns, k, false, x.dtype)
                                           : plain_weights(args.weight, false);
  run_grouped_product(
      {weights, x.dtype, x.data, rows.stride, offsets, 1, bias_values(args.bias, x.dtype, columns), y.data});
}

void pack_linear(const ArrayView& weight, const ArrayView& packed) { pack_weights("pack_linear", weight, packed); }

}  // namespace llada

// router:  x [T, H] --6 or 12 rows at a time--> logits [rows, E] in scratch (panel products) --> RouterRow, row by row
// The gate's weight is packed by each thread; a row's product is summed over H alone, so it does not depend on T.
#include "router_topk/router_topk.h"

#include <algorithm>
#include <limits>
#include <string>

#include "common/bfloat16.h"
#include "common/check.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "cpu/row_product.h"
#include "cpu/scratch.h"
#include "router_topk/router_row.h"

namespace llada {
namespace {

constexpr std::int64_t kChoiceOperations = 3;  // of one expert's score: exponential, comparison, k passes

void check_choice(const char* op, const RouterTopkArgs& args, std::int64_t tokens, std::int64_t num_experts,
                  const Backend& backend) {
  const std::int64_t groups = args.num_groups, kept = args.topk_groups;
  const std::string experts_text = std::to_string(num_experts);
  require(op, "k", args.k >= 1 && args.k <= num_experts, "within 1 and " + experts_text, std::to_string(args.k));
  require(op, "num_groups", groups >= 1 && num_experts % groups == 0, "a divisor of " + experts_text,
          std::to_string(groups));
  require(op, "topk_groups", kept >= 1 && kept <= groups, "within 1 and num_groups", std::to_string(kept));
  require(op, "k", groups == 1 || args.k <= kept * (num_experts / groups), "at most the experts of topk_groups groups",
          std::to_string(args.k));
  if (args.bias.defined()) {
    Check(op, "bias", args.bias).on(backend).floating(backend).shape({num_experts});
  }
  Check(op, "weights", args.weights).on(backend).dtype({DType::kFloat32}).shape({tokens, args.k}).contiguous();
  Check(op, "experts", args.experts).on(backend).dtype({DType::kInt32}).shape({tokens, args.k}).contiguous();
}

void load_row(const ArrayView& matrix, std::int64_t row, float* out) {
  const std::int64_t size = matrix.size(1), offset = row * matrix.stride(0);
  if (matrix.dtype == DType::kFloat32) {
    std::copy_n(matrix.as<float>() + offset, size, out);
  } else {
    for (std::int64_t i = 0; i < size; ++i) out[i] = to_float(matrix.as<bfloat16>()[offset + i]);
  }
}

void route(const RouterTopkArgs& args, RouterRow& row, std::int64_t token) {
  row.route(args.weights.as<float>() + token * args.k, args.experts.as<std::int32_t>() + token * args.k);
}

void round_row(DType dtype, const float* logits, std::int64_t size, float* out) {
  for (std::int64_t i = 0; i < size; ++i) {
    out[i] = dtype == DType::kFloat32 ? logits[i] : to_float(from_float<bfloat16>(logits[i]));
  }
}

}  // namespace

void check_router_topk(const RouterTopkArgs& args, const Backend& backend) {
  constexpr const char* kOp = "router_topk";
  Check(kOp, "logits", args.logits).on(backend).floating(backend).shape({kAnySize, kAnySize}).last_dim_contiguous();
  check_choice(kOp, args, args.logits.size(0), args.logits.size(1), backend);
}

void router_topk(const RouterTopkArgs& args) {
  check_router_topk(args, kCpuBackend);
  parallel_for(0, args.logits.size(0), grain_of(kChoiceOperations * args.logits.size(1)),
               [&](std::int64_t begin, std::int64_t end) {
                 RouterRow row(args, args.logits.size(1));
                 for (std::int64_t token = begin; token < end; ++token) {
                   load_row(args.logits, token, row.logits());
                   route(args, row, token);
                 }
               });
}

void check_router(const RouterArgs& args, const Backend& backend) {
  constexpr const char* kOp = "router";
  Check(kOp, "x", args.x).on(backend).floating(backend).shape({kAnySize, kAnySize}).last_dim_contiguous();
  const std::int64_t tokens = args.x.size(0), hidden = args.x.size(1);
  Check(kOp, "gate_weight", args.gate_weight).on(backend).dtype({args.x.dtype}).shape({kAnySize, hidden});
  Check(kOp, "gate_weight", args.gate_weight).last_dim_contiguous();
  check_choice(kOp, args.topk, tokens, args.gate_weight.size(0), backend);
  require(kOp, "x", tokens <= std::numeric_limits<std::int32_t>::max(), "of fewer than 2^31 rows",
          std::to_string(tokens));
}

void router(const RouterArgs& args) {
  check_router(args, kCpuBackend);
  const std::int64_t tokens = args.x.size(0), num_experts = args.gate_weight.size(0);
  if (tokens == 0) return;

  const PanelWeights gate = plain_weights(args.gate_weight, false);
  const std::int64_t stride = gate.panels() * kPanelColumns;
  run_rows(gate, {args.x.dtype, args.x.data, args.x.stride(0), nullptr}, tokens, [&] {
    return [&args, &gate, num_experts, stride, row = RouterRow(args.topk, num_experts),
            logits = Scratch<float>(stride * kMaxPanelRows)](const RowChunk& chunk, std::int64_t panel,
                                                             const float* tile) mutable {
      for (int r = 0; r < chunk.num_rows; ++r) {
        std::copy_n(tile + r * kPanelColumns, kPanelColumns, logits.data() + r * stride + panel * kPanelColumns);
      }
      if (panel + 1 < gate.panels()) return;
      for (int r = 0; r < chunk.num_rows; ++r) {
        round_row(args.x.dtype, logits.data() + r * stride, num_experts, row.logits());
        route(args.topk, row, chunk.first_row + r);
      }
    };
  });
}

}  // namespace llada

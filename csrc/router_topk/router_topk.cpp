// router:  x [T, H] --12 rows at a time--> logits [12, E] in scratch (panel products) --> RouterRow, row by row
// The gate's weight is packed once per call; a row's product is summed over H alone, so it does not depend on T.
#include "router_topk/router_topk.h"

#include <algorithm>
#include <string>

#include "common/bfloat16.h"
#include "common/check.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "cpu/panel_gemm.h"
#include "cpu/scratch.h"
#include "router_topk/router_row.h"

namespace llada {
namespace {

constexpr std::int64_t kChoiceOperations = 8;  // of one expert's score: exponential, comparison, k passes

void check_choice(const char* op, const RouterTopkArgs& args, std::int64_t tokens, std::int64_t num_experts) {
  const std::int64_t groups = args.num_groups, kept = args.topk_groups;
  const std::string experts_text = std::to_string(num_experts);
  require(op, "k", args.k >= 1 && args.k <= num_experts, "within 1 and " + experts_text, std::to_string(args.k));
  require(op, "num_groups", groups >= 1 && num_experts % groups == 0, "a divisor of " + experts_text,
          std::to_string(groups));
  require(op, "topk_groups", kept >= 1 && kept <= groups, "within 1 and num_groups", std::to_string(kept));
  require(op, "k", groups == 1 || args.k <= kept * (num_experts / groups), "at most the experts of topk_groups groups",
          std::to_string(args.k));
  if (args.bias.defined()) {
    Check(op, "bias", args.bias).cpu().dtype({DType::kFloat32, DType::kBFloat16}).shape({num_experts});
  }
  Check(op, "weights", args.weights).cpu().dtype({DType::kFloat32}).shape({tokens, args.k}).contiguous();
  Check(op, "experts", args.experts).cpu().dtype({DType::kInt32}).shape({tokens, args.k}).contiguous();
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

// One panel of the gate's weight per 32 experts.
class PackedGate {
 public:
  explicit PackedGate(const ArrayView& weight)
      : experts_(weight.size(0)),
        lanes_(lane_count(weight.dtype, weight.size(1))),
        dtype_(weight.dtype),
        data_(num_panels() * panel_size()) {
    parallel_for(0, num_panels(), grain_of(panel_size()), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t p = begin; p < end; ++p) {
        const int columns = static_cast<int>(std::min<std::int64_t>(kPanelColumns, experts_ - p * kPanelColumns));
        const char* source = weight.as<char>() + p * kPanelColumns * weight.stride(0) * dtype_bytes(weight.dtype);
        pack_panel(dtype_, source, weight.stride(0), columns, weight.size(1), data_.data() + p * panel_size());
      }
    });
  }

  std::int64_t num_panels() const { return (experts_ + kPanelColumns - 1) / kPanelColumns; }
  std::int64_t lanes() const { return lanes_; }

  // logits [num_rows][32 * num_panels]
  void multiply(PanelGemm gemm, const std::uint32_t* rows, int num_rows, float* logits) const {
    const std::int64_t stride = num_panels() * kPanelColumns;
    for (std::int64_t p = 0; p < num_panels(); ++p) {
      gemm({rows, data_.data() + p * panel_size(), num_rows, lanes_, logits + p * kPanelColumns, stride});
    }
  }

 private:
  std::int64_t panel_size() const { return lanes_ * kPanelColumns; }

  std::int64_t experts_, lanes_;
  DType dtype_;
  Scratch<std::uint32_t> data_;
};

void round_row(DType dtype, const float* logits, std::int64_t size, float* out) {
  for (std::int64_t i = 0; i < size; ++i) {
    out[i] = dtype == DType::kFloat32 ? logits[i] : to_float(from_float<bfloat16>(logits[i]));
  }
}

}  // namespace

void router_topk(const RouterTopkArgs& args) {
  constexpr const char* kOp = "router_topk";
  Check(kOp, "logits", args.logits).cpu().dtype({DType::kFloat32, DType::kBFloat16}).shape({kAnySize, kAnySize});
  Check(kOp, "logits", args.logits).last_dim_contiguous();
  check_choice(kOp, args, args.logits.size(0), args.logits.size(1));
  parallel_for(0, args.logits.size(0), grain_of(kChoiceOperations * args.logits.size(1)),
               [&](std::int64_t begin, std::int64_t end) {
                 RouterRow row(args, args.logits.size(1));
                 for (std::int64_t token = begin; token < end; ++token) {
                   load_row(args.logits, token, row.logits());
                   route(args, row, token);
                 }
               });
}

void router(const RouterArgs& args) {
  constexpr const char* kOp = "router";
  Check(kOp, "x", args.x).cpu().dtype({DType::kFloat32, DType::kBFloat16}).shape({kAnySize, kAnySize});
  Check(kOp, "x", args.x).last_dim_contiguous();
  const std::int64_t tokens = args.x.size(0), hidden = args.x.size(1), num_experts = args.gate_weight.size(0);
  Check(kOp, "gate_weight", args.gate_weight).cpu().dtype({args.x.dtype}).shape({kAnySize, hidden});
  Check(kOp, "gate_weight", args.gate_weight).last_dim_contiguous();
  check_choice(kOp, args.topk, tokens, num_experts);
  if (tokens == 0) return;

  const PackedGate gate(args.gate_weight);
  const PanelGemm gemm = select_panel_gemm(args.x.dtype, active_isa());
  const std::int64_t stride = gate.num_panels() * kPanelColumns;
  const std::int64_t tiles = (tokens + kMaxPanelRows - 1) / kMaxPanelRows;
  const std::int64_t row_operations = num_experts * (hidden / kProductsPerOperation + kChoiceOperations);
  parallel_for(0, tiles, grain_of(kMaxPanelRows * row_operations), [&](std::int64_t begin, std::int64_t end) {
    RouterRow row(args.topk, num_experts);
    const Scratch<std::uint32_t> rows(gate.lanes() * kMaxPanelRows);
    const Scratch<float> logits(stride * kMaxPanelRows);
    for (std::int64_t tile = begin; tile < end; ++tile) {
      const std::int64_t first = tile * kMaxPanelRows;
      const int count = static_cast<int>(std::min<std::int64_t>(kMaxPanelRows, tokens - first));
      const char* source = args.x.as<char>() + first * args.x.stride(0) * dtype_bytes(args.x.dtype);
      pack_rows(args.x.dtype, source, args.x.stride(0), nullptr, count, hidden, rows.data());
      gate.multiply(gemm, rows.data(), count, logits.data());
      for (int r = 0; r < count; ++r) {
        round_row(args.x.dtype, logits.data() + r * stride, num_experts, row.logits());
        route(args.topk, row, first + r);
      }
    }
  });
}

}  // namespace llada

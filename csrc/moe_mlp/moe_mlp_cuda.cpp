// The expert layer, y [T, H] = sum over a token's k slots of weight * down(silu(gate(x)) * up(x)).
//
//   experts [T, k] --expert_order--> order [T * k], offsets [E + 1]   (few rows on sm_90a: by the next kernel itself)
//   x --grouped_swiglu, rows read at order / k--> intermediate [T * k, I], sorted, rounded as published
//   intermediate --down product, rows written at order--> outputs [T * k, H] fp32, by token and slot
//   outputs --combine: a token's slots in order, one rounding--> y
//
// Every output is written once and summed in an order of its own: no atomics, the same bits for any batch.
#include "moe_mlp/moe_mlp_cuda.h"

#include <algorithm>

#include "cuda/launch_report.h"
#include "cuda/select_path.h"
#include "grouped_gemm/grouped_gemm_cuda.h"
#include "moe_mlp/moe_mlp.h"
#include "permute/permute.h"
#include "permute/permute_cuda.h"

namespace llada::cuda {
namespace {

constexpr const char* kOp = "moe_mlp";
constexpr std::int64_t kPassElements = 1 << 28;  // of the outputs: 1 GB, 16384 tokens of the 7B model

constexpr std::int64_t stored_depth_int8(std::int64_t depth) { return (depth + 15) / 16 * 16; }

// Rows `first` .. `first + count` of a contiguous array.
ArrayView rows_of(const ArrayView& view, std::int64_t first, std::int64_t count) {
  ArrayView part = view;
  part.data = view.as<char>() + first * view.stride(0) * dtype_bytes(view.dtype);
  part.sizes[0] = count;
  return part;
}

void check_workspace(const MoeMlpArgs& args, const MoeMlpWorkspace& workspace, const Backend& backend) {
  const MoeMlpSizes sizes = moe_mlp_sizes(args);
  const std::int64_t hidden = args.x.size(1), groups = args.gate_up.size(0);
  const auto check = [&](const char* name, const ArrayView& view, DType dtype,
                         std::initializer_list<std::int64_t> shape) {
    Check(kOp, name, view).on(backend).dtype({dtype}).shape(shape).contiguous();
  };
  check("order", workspace.order, DType::kInt32, {sizes.rows});
  check("offsets", workspace.offsets, DType::kInt32, {groups + 1});
  check("intermediate", workspace.intermediate, args.x.dtype, {sizes.rows, args.intermediate});
  check("outputs", workspace.outputs, DType::kFloat32, {sizes.rows, hidden});
}

// Weights in bytes where there are scales.
void run_pass(const MoeMlpArgs& args, const MoeMlpScales* scales, const MoeMlpWorkspace& workspace,
              const Stream& stream, std::int64_t first, std::int64_t tokens) {
  const ArrayView experts = rows_of(args.experts, first, tokens), weights = rows_of(args.weights, first, tokens);
  const ArrayView y = rows_of(args.y, first, tokens);
  const ArrayView x = rows_of(args.x, first, tokens);
  const std::int64_t slots = experts.size(1), rows = tokens * slots, hidden = x.size(1), groups = args.gate_up.size(0);
  const ExpertOrderParams sort =
      expert_order_params({experts, groups, rows_of(workspace.order, 0, rows), workspace.offsets}, stream);
  const bool hopper = active_path(backend_of(x)) == CudaPath::kSm90a;
  const auto* order = workspace.order.as<const std::int32_t>();
  const auto* offsets = workspace.offsets.as<const std::int32_t>();
  ProductParams gate_up{x.dtype,
                        x.data,
                        x.stride(0),
                        args.gate_up.data,
                        args.gate_up.stride(0),
                        args.gate_up.stride(1),
                        offsets,
                        workspace.intermediate.data,
                        rows,
                        hidden,
                        args.intermediate,
                        groups,
                        stream.handle};
  gate_up.x_order = order;
  gate_up.slots = slots;
  if (scales != nullptr) gate_up.weight_scale = scales->gate_up.as<const float>();
  if (hopper) {
    const auto ordered_swiglu = scales != nullptr ? ordered_swiglu_int8_sm90 : ordered_swiglu_sm90;
    report(kOp, ordered_swiglu(gate_up, sort), stream);
  } else {
    report(kOp, expert_order_sm80(sort), stream);
    report(kOp, scales != nullptr ? swiglu_int8_sm80(gate_up) : grouped_swiglu_sm80(gate_up), stream);
  }
  ProductParams down{x.dtype,
                     workspace.intermediate.data,
                     args.intermediate,
                     args.down.data,
                     args.down.stride(0),
                     args.down.stride(1),
                     offsets,
                     workspace.outputs.data,
                     rows,
                     args.intermediate,
                     hidden,
                     groups,
                     stream.handle};
  down.y_order = order;
  if (scales != nullptr) {
    down.weight_scale = scales->down.as<const float>();
    report(kOp, hopper ? down_product_int8_sm90(down) : down_product_int8_sm80(down), stream);
  } else {
    report(kOp, hopper ? down_product_sm90(down) : down_product_sm80(down), stream);
  }
  report(kOp,
         combine_sm80({x.dtype, workspace.outputs.as<const float>(), weights.as<const float>(), experts.data,
                       experts.dtype == DType::kInt64, groups, y.data, tokens, slots, hidden, stream.handle}),
         stream);
}

void run(const MoeMlpArgs& args, const MoeMlpScales* scales, const MoeMlpWorkspace& workspace, const Stream& stream) {
  check_workspace(args, workspace, backend_of(args.x));
  if (args.y.elements() == 0) return;
  const std::int64_t tokens = args.x.size(0), step = moe_mlp_sizes(args).tokens;
  for (std::int64_t first = 0; first < tokens; first += step) {
    run_pass(args, scales, workspace, stream, first, std::min(step, tokens - first));
  }
}

}  // namespace

MoeMlpSizes moe_mlp_sizes(const MoeMlpArgs& args) {
  const std::int64_t slots = args.experts.size(1);
  const std::int64_t per_token = std::max<std::int64_t>(1, slots * std::max(args.x.size(1), args.intermediate));
  const std::int64_t tokens = std::min(args.x.size(0), std::max<std::int64_t>(1, kPassElements / per_token));
  return {tokens, tokens * slots};
}

void moe_mlp(const MoeMlpArgs& args, const MoeMlpWorkspace& workspace, const Stream& stream) {
  check_moe_mlp(args, backend_of(args.x));
  run(args, nullptr, workspace, stream);
}

void moe_mlp_int8(const MoeMlpArgs& args, const MoeMlpScales& scales, const MoeMlpWorkspace& workspace,
                  const Stream& stream) {
  const Backend backend = backend_of(args.x);
  check_moe_mlp(args, backend);
  Check(kOp, "x", args.x).dtype({DType::kBFloat16, DType::kFloat16});
  const std::int64_t experts = args.gate_up.size(0), hidden = args.x.size(1), intermediate = args.intermediate;
  const auto check = [&](const char* name, const ArrayView& view, DType dtype,
                         std::initializer_list<std::int64_t> shape) {
    Check(kOp, name, view).on(backend).dtype({dtype}).shape(shape).contiguous();
  };
  check("gate_up", args.gate_up, DType::kInt8, {experts, 2 * intermediate, stored_depth_int8(hidden)});
  check("gate_up_scale", scales.gate_up, DType::kFloat32, {experts, 2 * intermediate});
  check("down", args.down, DType::kInt8, {experts, hidden, stored_depth_int8(intermediate)});
  check("down_scale", scales.down, DType::kFloat32, {experts, hidden});
  run(args, &scales, workspace, stream);
}

}  // namespace llada::cuda

// update, residual --add_rms_norm--> normed --router--> weights, experts; normed, weights, experts --moe_mlp--> out
#include "expert_layer/expert_layer.h"

#include <string>

#include "common/bfloat16.h"
#include "common/check.h"
#include "cpu/scratch_array.h"
#include "moe_mlp/moe_mlp.h"
#include "norm_rope/norm_rope.h"
#include "router_topk/router_topk.h"

namespace llada {
namespace {

constexpr const char* kOp = "expert_layer";

// [.., H] as [T, H].
ArrayView flat(const char* argument, const ArrayView& view) {
  Check(kOp, argument, view).cpu().contiguous();
  require(kOp, argument, view.rank >= 1 && view.size(view.rank - 1) >= 1, "of a last dimension of at least 1",
          shape_text(view));
  const std::int64_t hidden = view.size(view.rank - 1);
  return contiguous_view(view.data, view.dtype, {view.elements() / hidden, hidden});
}

// What decides how much memory the call takes; the ops check the rest.
void check(const ExpertLayerArgs& args, const ArrayView& update) {
  Check(kOp, "update", update).dtype({DType::kFloat32, DType::kBFloat16});
  Check(kOp, "gate_weight", args.gate_weight).cpu().shape({kAnySize, update.size(1)});
  const std::int64_t num_experts = args.gate_weight.size(0);
  require(kOp, "k", args.k >= 1 && args.k <= num_experts, "within 1 and " + std::to_string(num_experts),
          std::to_string(args.k));
  require(kOp, "gate_up", args.gate_up.rank > 0 && args.gate_up.size(0) == num_experts,
          "of the router's " + std::to_string(num_experts) + " experts", shape_text(args.gate_up));
}

void round_to_bfloat16(const ArrayView& weights) {
  auto* values = weights.as<float>();
  for (std::int64_t i = 0; i < weights.elements(); ++i) values[i] = to_float(from_float<bfloat16>(values[i]));
}

}  // namespace

void expert_layer(const ExpertLayerArgs& args) {
  const ArrayView update = flat("update", args.update), residual = flat("residual", args.residual);
  const ArrayView out = flat("out", args.out), total = flat("total", args.total);
  Check(kOp, "residual", args.residual).shape({args.update.sizes.data(), static_cast<std::size_t>(args.update.rank)});
  check(args, update);
  const DType dtype = update.dtype;
  const std::int64_t tokens = update.size(0);
  const ScratchArray normed(dtype, {tokens, update.size(1)});
  const ScratchArray weights(DType::kFloat32, {tokens, args.k}), experts(DType::kInt32, {tokens, args.k});

  rms_norm({update, residual, args.norm_weight, args.eps, normed.view(), total});
  RouterTopkArgs choice;
  choice.k = args.k;
  choice.bias = args.expert_bias;
  choice.renormalize = args.renormalize;
  choice.scale = args.scale;
  choice.weights = weights.view();
  choice.experts = experts.view();
  router({normed.view(), args.gate_weight, choice});
  if (dtype == DType::kBFloat16) round_to_bfloat16(weights.view());
  moe_mlp({normed.view(), weights.view(), experts.view(), args.gate_up, args.down, true, args.intermediate, out});
}

}  // namespace llada

#include "router_topk/router_topk_cuda.h"

#include <limits>
#include <string>

#include "cuda/launch_report.h"
#include "linear/linear.h"
#include "linear/linear_cuda.h"
#include "router_topk/router_topk.h"

namespace llada::cuda {
namespace {

void check_sizes(const char* op, const char* argument, std::int64_t tokens, std::int64_t num_experts) {
  require(op, argument, num_experts <= kMaxRoutedExperts,
          "of at most " + std::to_string(kMaxRoutedExperts) + " experts on a GPU", std::to_string(num_experts));
  require(op, argument, tokens <= std::numeric_limits<std::int32_t>::max(), "of fewer than 2^31 rows",
          std::to_string(tokens));
}

RouterTopkParams choice_of(const RouterTopkArgs& args, DType dtype, std::int64_t tokens, std::int64_t num_experts,
                           const Stream& stream) {
  RouterTopkParams params{};
  params.dtype = dtype;
  params.tokens = tokens;
  params.num_experts = static_cast<int>(num_experts);
  params.k = static_cast<int>(args.k);
  params.sigmoid = args.score == RouterScore::kSigmoid;
  params.bias_dtype = args.bias.dtype;
  params.bias = args.bias.data;
  params.bias_stride = args.bias.stride(0);
  params.bias_in_weights = args.bias_in_weights;
  params.num_groups = static_cast<int>(args.num_groups);
  params.topk_groups = static_cast<int>(args.topk_groups);
  params.renormalize = args.renormalize;
  params.scale = static_cast<float>(args.scale);
  params.weights = args.weights.as<float>();
  params.experts = args.experts.as<std::int32_t>();
  params.stream = stream.handle;
  return params;
}

}  // namespace

void router_topk(const RouterTopkArgs& args, const Stream& stream) {
  constexpr const char* kOp = "router_topk";
  check_router_topk(args, backend_of(args.logits));
  const std::int64_t tokens = args.logits.size(0), num_experts = args.logits.size(1);
  check_sizes(kOp, "logits", tokens, num_experts);
  if (tokens == 0) return;
  RouterTopkParams params = choice_of(args, args.logits.dtype, tokens, num_experts, stream);
  params.logits = args.logits.data;
  params.logits_stride = args.logits.stride(0);
  report(kOp, router_topk_sm80(params), stream);
}

std::int64_t router_logits(std::int64_t num_experts) { return num_experts > kMaxFusedExperts ? num_experts : 0; }

void router(const RouterArgs& args, const ArrayView& logits, const Stream& stream) {
  constexpr const char* kOp = "router";
  const Backend backend = backend_of(args.x);
  check_router(args, backend);
  const std::int64_t tokens = args.x.size(0), num_experts = args.gate_weight.size(0);
  check_sizes(kOp, "gate_weight", tokens, num_experts);
  Check(kOp, "logits", logits).on(backend).dtype({args.x.dtype}).shape({tokens, router_logits(num_experts)});
  if (tokens == 0) return;
  if (num_experts > kMaxFusedExperts) {
    linear({args.x, args.gate_weight, false, {}, logits}, stream);
    RouterTopkArgs choice = args.topk;
    choice.logits = logits;
    router_topk(choice, stream);
    return;
  }
  const RouterParams params{choice_of(args.topk, args.x.dtype, tokens, num_experts, stream),
                            args.x.data,
                            args.x.stride(0),
                            args.gate_weight.data,
                            args.gate_weight.stride(0),
                            args.x.size(1)};
  report(kOp, router_sm80(params), stream);
}

}  // namespace llada::cuda

#include "router_topk/router_topk_cuda.h"

#include <limits>
#include <string>

#include "cuda/launch_report.h"
#include "router_topk/router_topk.h"

namespace llada::cuda {

void router_topk(const RouterTopkArgs& args, const Stream& stream) {
  constexpr const char* kOp = "router_topk";
  check_router_topk(args, backend_of(args.logits));
  const std::int64_t tokens = args.logits.size(0), num_experts = args.logits.size(1);
  require(kOp, "logits", num_experts <= kMaxRoutedExperts,
          "of at most " + std::to_string(kMaxRoutedExperts) + " experts on a GPU", std::to_string(num_experts));
  require(kOp, "logits", tokens <= std::numeric_limits<std::int32_t>::max(), "of fewer than 2^31 rows",
          std::to_string(tokens));
  if (tokens == 0) return;
  const RouterTopkParams params{args.logits.dtype,
                                args.logits.data,
                                args.logits.stride(0),
                                tokens,
                                static_cast<int>(num_experts),
                                static_cast<int>(args.k),
                                args.score == RouterScore::kSigmoid,
                                args.bias.dtype,
                                args.bias.data,
                                args.bias.stride(0),
                                args.bias_in_weights,
                                static_cast<int>(args.num_groups),
                                static_cast<int>(args.topk_groups),
                                args.renormalize,
                                static_cast<float>(args.scale),
                                args.weights.as<float>(),
                                args.experts.as<std::int32_t>(),
                                stream.handle};
  report(kOp, router_topk_sm80(params), stream);
}

}  // namespace llada::cuda

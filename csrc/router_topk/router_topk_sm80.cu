// router_topk: one warp per token, its E scores in registers (token_router.h).
#include "cuda/launch.h"
#include "router_topk/router_topk_cuda.h"
#include "router_topk/token_router.h"

namespace llada::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarpLanes;

template <int kPerLane>
__global__ void __launch_bounds__(kThreads) router_topk_kernel(RouterTopkParams params) {
  LLADA_SHARED_ARRAY(float, rows, kWarps * kPerLane * kWarpLanes);
  const int warp = threadIdx.x / kWarpLanes;
  const std::int64_t token = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp;
  if (token >= params.tokens) return;
  TokenRouter<kPerLane> router(params, rows + warp * kPerLane * kWarpLanes, [&](int expert) {
    return load_float(params.logits, params.dtype, token * params.logits_stride + expert);
  });
  router.route(params.weights + token * params.k, params.experts + token * params.k);
}

}  // namespace

int router_topk_sm80(const RouterTopkParams& params) {
  const auto blocks = static_cast<unsigned>((params.tokens + kWarps - 1) / kWarps);
  const LaunchConfig config{dim3(blocks), dim3(kThreads), 0, params.stream};
  if (params.num_experts <= 2 * kWarpLanes) return launch(config, router_topk_kernel<2>, params);
  if (params.num_experts <= 8 * kWarpLanes) return launch(config, router_topk_kernel<8>, params);
  return launch(config, router_topk_kernel<32>, params);
}

}  // namespace llada::cuda

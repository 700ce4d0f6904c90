// router: logits = x [T, H] gate [E, H]^T, rounded to x's dtype, and the choice of each token's experts, in one launch.
//
//   block:  16 tokens and all experts, 64 at a time; kParts groups of four warps, each over its own part of the depth,
//           four stages of 128 bytes deep (product_sm80.h: gate rows are the product's weight)
//   sums:   of the parts, in shared memory, in order; then the logits' row of a token, from which a warp routes it
//
// How a logit is summed depends on H alone: the bits of a token's routing depend on its own row and the gate.
#include "grouped_gemm/product_sm80.h"
#include "router_topk/router_topk_cuda.h"
#include "router_topk/token_router.h"

namespace llada::cuda {
namespace {

constexpr int kParts = 2;
using RouterTile = TileShape<16, 1, 4, 4, 1>;
constexpr int kTokens = RouterTile::kRows, kTileExperts = RouterTile::kWeightRows;
constexpr int kPartBytes = RouterTile::kStages * RouterTile::kStageBytes;
constexpr int kThreads = kParts * RouterTile::kThreads, kWarps = kThreads / kWarpLanes;
static_assert(kTokens * kTileExperts * sizeof(float) <= kPartBytes);

// A part's sums of 64 experts, [kTokens, kTileExperts], at the head of its stages.
__device__ __forceinline__ void leave_sums(const RouterTile::Sums& sums, float* part) {
  const int lane = threadIdx.x % kWarpLanes, expert = threadIdx.x / kWarpLanes * 16 + lane / 4;
#pragma unroll
  for (int n = 0; n < RouterTile::kFragments; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = n * 8 + lane % 4 * 2 + i % 2;
      part[token * kTileExperts + expert + i / 2 * 8] = sums[0][n][i];
    }
  }
}

// Made in the kernel, so that it is known there which of its parts are not used.
__device__ __forceinline__ ProductParams product_of(const RouterParams& params) {
  ProductParams product{};
  product.dtype = params.choice.dtype;
  product.x = params.x;
  product.x_stride = params.x_stride;
  product.weight = params.gate;
  product.weight_stride = params.gate_stride;
  product.rows = params.choice.tokens;
  product.depth = params.hidden;
  product.columns = params.choice.num_experts;
  product.groups = 1;
  return product;
}

template <class Element, int kPerLane, bool kAligned>
__global__ void __launch_bounds__(kThreads) router_kernel(RouterParams params) {
  LLADA_DYNAMIC_SHARED(char, shared);  // the parts' stages, then logits [kTokens, num_experts]
  auto* logits = reinterpret_cast<float*>(shared + kParts * kPartBytes);
  const int num_experts = params.choice.num_experts, part = threadIdx.y;
  const int thread = part * RouterTile::kThreads + threadIdx.x;
  const ProductParams product = product_of(params);
  const RowTile tile = find_tile<kTokens>(product, blockIdx.x);
  const int steps = (depth_steps<Element>(product) + kParts - 1) / kParts;
  for (int first = 0; first < num_experts; first += kTileExperts) {
    RouterTile::Sums sums = {};
    sum_tile<Element, Element, RouterTile, false, kAligned>(sums, shared + part * kPartBytes, product, tile, first,
                                                            {part * steps, (part + 1) * steps});
    __syncthreads();
    leave_sums(sums, reinterpret_cast<float*>(shared + part * kPartBytes));
    __syncthreads();
    for (int i = thread; i < kTokens * kTileExperts; i += kThreads) {
      float sum = 0.0f;
#pragma unroll
      for (int p = 0; p < kParts; ++p) sum += reinterpret_cast<const float*>(shared + p * kPartBytes)[i];
      const int token = i / kTileExperts, expert = first + i % kTileExperts;
      if (expert < num_experts) logits[token * num_experts + expert] = to_float(from_float<Element>(sum));
    }
    __syncthreads();
  }
  for (int row = thread / kWarpLanes; row < tile.count; row += kWarps) {
    float* own = logits + row * num_experts;
    const std::int64_t slot = (static_cast<std::int64_t>(tile.first) + row) * params.choice.k;
    TokenRouter<kPerLane> router(params.choice, own, [&](int expert) { return own[expert]; });
    router.route(params.choice.weights + slot, params.choice.experts + slot);
  }
}

template <class Element, int kPerLane>
int launch_router(const RouterParams& params) {
  constexpr std::int64_t kBytes = sizeof(Element);
  const RouterTopkParams& choice = params.choice;
  const bool aligned =
      aligned_rows(params.x, params.x_stride * kBytes) && aligned_rows(params.gate, params.gate_stride * kBytes);
  const auto blocks = static_cast<unsigned>((choice.tokens + kTokens - 1) / kTokens);
  const LaunchConfig config{dim3(blocks), dim3(RouterTile::kThreads, kParts),
                            kParts * kPartBytes + kTokens * choice.num_experts * sizeof(float), choice.stream};
  return aligned ? launch(config, router_kernel<Element, kPerLane, true>, params)
                 : launch(config, router_kernel<Element, kPerLane, false>, params);
}

}  // namespace

int router_sm80(const RouterParams& params) {
  return dispatch_floating(params.choice.dtype, [&](auto element) {
    using Element = decltype(element);
    if (params.choice.num_experts <= 2 * kWarpLanes) return launch_router<Element, 2>(params);
    return launch_router<Element, 8>(params);
  });
}

}  // namespace llada::cuda

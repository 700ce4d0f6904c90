// moe_mlp's last step: a token's k rows times their weights, summed in slot order and rounded once.
#include "cuda/dispatch.h"
#include "cuda/launch.h"
#include "cuda/pack.h"
#include "moe_mlp/moe_mlp_cuda.h"

namespace llada::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ bool is_mine(const CombineParams& params, std::int64_t assignment) {
  const std::int64_t expert = params.wide_experts ? static_cast<const std::int64_t*>(params.experts)[assignment]
                                                  : static_cast<const std::int32_t*>(params.experts)[assignment];
  return expert >= 0 && expert < params.num_experts;
}

// A block per token, a thread per four neighbouring elements.
template <class Element>
__global__ void __launch_bounds__(kThreads) combine_kernel(CombineParams params, bool aligned) {
  constexpr int kPack = 4;
  const std::int64_t token = blockIdx.x, first = token * params.slots;
  Element* y = static_cast<Element*>(params.y) + token * params.hidden;
  for (std::int64_t i = threadIdx.x * kPack; i < params.hidden; i += kThreads * kPack) {
    const std::int64_t count = params.hidden - i;
    float sums[kPack] = {};
    for (std::int64_t slot = 0; slot < params.slots; ++slot) {
      const std::int64_t assignment = first + slot;
      if (!is_mine(params, assignment)) continue;
      const float weight = params.weights[assignment];
      const auto pack = load_pack<kPack>(params.outputs + assignment * params.hidden + i, count, aligned);
#pragma unroll
      for (int c = 0; c < kPack; ++c) sums[c] += pack.elements[c] * weight;
    }
    Vector<Element, kPack> result;
#pragma unroll
    for (int c = 0; c < kPack; ++c) result.elements[c] = from_float<Element>(sums[c]);
    store_pack<kPack>(y + i, result, count, aligned);
  }
}

}  // namespace

int combine_sm80(const CombineParams& params) {
  return dispatch_floating(params.dtype, [&](auto element) {
    using Element = decltype(element);
    constexpr std::int64_t kBytes = sizeof(float);
    const bool aligned = aligned_rows(params.outputs, params.hidden * kBytes) && aligned_rows(params.y, 0);
    const LaunchConfig config{dim3(static_cast<unsigned>(params.tokens)), dim3(kThreads), 0, params.stream};
    return launch(config, combine_kernel<Element>, params, aligned);
  });
}

}  // namespace llada::cuda

// expert_order: a stable counting sort of A = T * k assignments in one launch, a block for each kSortChunk of them.
//
//   Each block counts its warps' parts of its chunk and, with all its threads, what of each expert comes before the
//   chunk and after it: reading all experts again (512 KB at T = 16384, k = 8) instead of a launch before it, or a
//   barrier of the grid. It places warp by warp, 32 at a time, equal experts in lane order.
//   "Not mine" is group E. Only integers are added, and to fixed places: the same bits whatever order threads take.
//
// permute, unpermute: one block per row or token, 16 bytes per thread and access. unpermute first turns `order` round
// (row_of: which row holds an assignment), then sums a token's k rows in slot order in fp32, and writes once.
#include "cuda/dispatch.h"
#include "cuda/launch.h"
#include "cuda/pack.h"
#include "cuda/reduce.h"
#include "permute/expert_sort_sm80.h"
#include "permute/permute_cuda.h"

namespace llada::cuda {
namespace {

constexpr int kThreads = kSortThreads;
constexpr int kCountThreads = 1024;  // where there is more than one block

__global__ void __launch_bounds__(kCountThreads) place_kernel(ExpertOrderParams params) {
  LLADA_DYNAMIC_SHARED(std::int32_t, counters);
  place_chunk(params, counters, blockIdx.x, gridDim.x);
}

template <class Element>
__global__ void __launch_bounds__(kThreads) permute_kernel(PermuteParams params, bool aligned) {
  constexpr int kPack = kElementsPer16Bytes<Element>;
  const std::int64_t row = blockIdx.x, assignment = params.order[row];
  const bool valid = assignment >= 0 && assignment < params.tokens * params.k;
  const Element* from = static_cast<const Element*>(params.x) + (valid ? assignment / params.k * params.x_stride : 0);
  Element* to = static_cast<Element*>(params.out) + row * params.hidden;
  for (std::int64_t i = threadIdx.x * kPack; i < params.hidden; i += static_cast<std::int64_t>(blockDim.x) * kPack) {
    const std::int64_t count = params.hidden - i;
    store_pack<kPack>(to + i, load_pack<kPack>(from + i, valid ? count : 0, aligned), count, aligned);
  }
}

__global__ void __launch_bounds__(kThreads) invert_kernel(UnpermuteParams params) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= params.rows) return;
  const std::int64_t assignment = params.order[row];
  if (assignment >= 0 && assignment < params.tokens * params.k) {
    params.row_of[assignment] = static_cast<std::int32_t>(row);
  }
}

__device__ __forceinline__ float weight_at(const UnpermuteParams& params, std::int64_t assignment) {
  switch (params.weights_dtype) {
    case DType::kBFloat16:
      return to_float(static_cast<const __nv_bfloat16*>(params.weights)[assignment]);
    case DType::kFloat16:
      return to_float(static_cast<const __half*>(params.weights)[assignment]);
    default:
      return static_cast<const float*>(params.weights)[assignment];
  }
}

template <class Element>
__global__ void __launch_bounds__(kThreads) sum_kernel(UnpermuteParams params, bool aligned) {
  constexpr int kPack = kElementsPer16Bytes<Element>, kBatch = 4;  // rows under way at a time
  using Pack = Vector<Element, kPack>;
  const std::int64_t token = blockIdx.x, first_assignment = token * params.k;
  const auto* y = static_cast<const Element*>(params.y);
  Element* out = static_cast<Element*>(params.out) + token * params.hidden;
  for (std::int64_t i = threadIdx.x * kPack; i < params.hidden; i += static_cast<std::int64_t>(blockDim.x) * kPack) {
    const std::int64_t count = params.hidden - i;
    float sums[kPack] = {};
    for (std::int64_t slot = 0; slot < params.k; slot += kBatch) {
      Pack packs[kBatch] = {};
      std::int32_t rows[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        rows[j] = slot + j < params.k ? params.row_of[first_assignment + slot + j] : -1;
        if (rows[j] >= 0) packs[j] = load_pack<kPack>(y + rows[j] * params.y_stride + i, count, aligned);
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if (rows[j] < 0) continue;
        const float weight = weight_at(params, first_assignment + slot + j);
#pragma unroll
        for (int c = 0; c < kPack; ++c) sums[c] += to_float(packs[j].elements[c]) * weight;
      }
    }
    Pack result;
#pragma unroll
    for (int c = 0; c < kPack; ++c) result.elements[c] = from_float<Element>(sums[c]);
    store_pack<kPack>(out + i, result, count, aligned);
  }
}

// A thread per 16 bytes of a row, in whole warps.
dim3 row_threads(std::int64_t row_bytes) {
  const std::int64_t wanted = ((row_bytes + 15) / 16 + kWarpLanes - 1) / kWarpLanes * kWarpLanes;
  return dim3(static_cast<unsigned>(wanted < kThreads ? wanted : kThreads));
}

template <class Element>
int permute_rows(const PermuteParams& params) {
  constexpr std::int64_t kBytes = sizeof(Element);
  const bool aligned =
      aligned_rows(params.x, params.x_stride * kBytes) && aligned_rows(params.out, params.hidden * kBytes);
  const LaunchConfig config{dim3(static_cast<unsigned>(params.rows)), row_threads(params.hidden * kBytes), 0,
                            params.stream};
  return launch(config, permute_kernel<Element>, params, aligned);
}

}  // namespace

int expert_order_sm80(const ExpertOrderParams& params) {
  const LaunchConfig config{dim3(static_cast<unsigned>(params.blocks)),
                            dim3(params.blocks > 1 ? kCountThreads : kThreads),
                            sort_counters(params.num_experts) * sizeof(std::int32_t), params.stream};
  return launch(config, place_kernel, params);
}

int permute_sm80(const PermuteParams& params) {
  return params.element_bytes == 4 ? permute_rows<std::uint32_t>(params) : permute_rows<std::uint16_t>(params);
}

int unpermute_sm80(const UnpermuteParams& params) {
  const std::size_t bytes = params.tokens * params.k * sizeof(std::int32_t);
  if (const int error = cudaMemsetAsync(params.row_of, 0xff, bytes, static_cast<cudaStream_t>(params.stream))) {
    return error;
  }
  if (params.rows > 0) {
    const auto blocks = static_cast<unsigned>((params.rows + kThreads - 1) / kThreads);
    const LaunchConfig config{dim3(blocks), dim3(kThreads), 0, params.stream};
    if (const int error = launch(config, invert_kernel, params)) return error;
  }
  return dispatch_floating(params.dtype, [&](auto element) {
    using Element = decltype(element);
    constexpr std::int64_t kBytes = sizeof(Element);
    const bool aligned =
        aligned_rows(params.y, params.y_stride * kBytes) && aligned_rows(params.out, params.hidden * kBytes);
    const LaunchConfig config{dim3(static_cast<unsigned>(params.tokens)), row_threads(params.hidden * kBytes), 0,
                              params.stream};
    return launch(config, sum_kernel<Element>, params, aligned);
  });
}

}  // namespace llada::cuda

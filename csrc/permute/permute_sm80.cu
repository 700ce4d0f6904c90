// expert_order: a stable counting sort of A = T * k assignments, in one launch up to kSortChunk of them, in two beyond.
//
//   counts [blocks, E + 1]   launch 1 (more than one block): how many of a block's chunk go to each expert
//   order, offsets           launch 2: each block adds up what comes before its chunk, counts its warps' parts, and
//                            places warp by warp, 32 assignments at a time, equal experts in lane order
//   "Not mine" is group E. Only integers are added, and to fixed places: the same bits whatever order threads take.
//
// permute, unpermute: one block per row or token, 16 bytes per thread and access. unpermute first turns `order` round
// (row_of: which row holds an assignment), then sums a token's k rows in slot order in fp32, and writes once.
#include "cuda/dispatch.h"
#include "cuda/launch.h"
#include "cuda/pack.h"
#include "cuda/reduce.h"
#include "permute/permute_cuda.h"

namespace llada::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpLanes;

static_assert(kSortChunkMultiple % kThreads == 0);

__device__ __forceinline__ int group_of(const ExpertOrderParams& params, std::int64_t assignment) {
  const std::int64_t expert = params.wide_experts ? static_cast<const std::int64_t*>(params.experts)[assignment]
                                                  : static_cast<const std::int32_t*>(params.experts)[assignment];
  return expert >= 0 && expert < params.num_experts ? static_cast<int>(expert) : params.num_experts;
}

__global__ void __launch_bounds__(kThreads) count_kernel(ExpertOrderParams params) {
  LLADA_DYNAMIC_SHARED(std::int32_t, histogram);  // [groups]
  const int groups = params.num_experts + 1;
  for (int group = threadIdx.x; group < groups; group += kThreads) histogram[group] = 0;
  __syncthreads();
  const std::int64_t begin = blockIdx.x * params.chunk, end = min(begin + params.chunk, params.assignments);
  for (std::int64_t a = begin + threadIdx.x; a < end; a += kThreads) atomicAdd(&histogram[group_of(params, a)], 1);
  __syncthreads();
  std::int32_t* counts = params.counts + blockIdx.x * static_cast<std::int64_t>(groups);
  for (int group = threadIdx.x; group < groups; group += kThreads) counts[group] = histogram[group];
}

// starts [groups] hold totals and become their exclusive sums; by one warp.
__device__ __forceinline__ void scan_groups(std::int32_t* starts, int groups) {
  const int lane = threadIdx.x % kWarpLanes;
  std::int32_t carry = 0;
  for (int first = 0; first < groups; first += kWarpLanes) {
    const int group = first + lane;
    const std::int32_t total = group < groups ? starts[group] : 0;
    std::int32_t sum = total;
#pragma unroll
    for (int distance = 1; distance < kWarpLanes; distance *= 2) {
      const std::int32_t below = __shfl_up_sync(kAllLanes, sum, distance);
      if (lane >= distance) sum += below;
    }
    if (group < groups) starts[group] = carry + sum - total;
    carry += __shfl_sync(kAllLanes, sum, kWarpLanes - 1);
  }
}

__global__ void __launch_bounds__(kThreads) place_kernel(ExpertOrderParams params) {
  LLADA_DYNAMIC_SHARED(std::int32_t, starts);  // [groups], then next [kWarps, groups]
  const int groups = params.num_experts + 1, warp = threadIdx.x / kWarpLanes, lane = threadIdx.x % kWarpLanes;
  std::int32_t* next = starts + groups;
  for (int i = threadIdx.x; i < kWarps * groups; i += kThreads) next[i] = 0;
  __syncthreads();
  const std::int64_t share = params.chunk / kWarps, begin = blockIdx.x * params.chunk + warp * share;
  const std::int64_t end = min(begin + share, params.assignments);
  std::int32_t* mine = next + warp * groups;
  for (std::int64_t a = begin + lane; a < end; a += kWarpLanes) atomicAdd(&mine[group_of(params, a)], 1);
  __syncthreads();

  for (int group = threadIdx.x; group < groups; group += kThreads) {
    std::int32_t before = 0, total = 0;  // in the blocks before this one, and in all
    if (gridDim.x > 1) {
#pragma unroll 8
      for (unsigned block = 0; block < gridDim.x; ++block) {
        const std::int32_t count = params.counts[block * static_cast<std::int64_t>(groups) + group];
        if (block < blockIdx.x) before += count;
        total += count;
      }
    }
    std::int32_t sum = before;
    for (int w = 0; w < kWarps; ++w) {
      const std::int32_t count = next[w * groups + group];
      next[w * groups + group] = sum;
      sum += count;
    }
    starts[group] = gridDim.x > 1 ? total : sum;
  }
  __syncthreads();
  if (warp == 0) scan_groups(starts, groups);
  __syncthreads();
  if (blockIdx.x == 0) {
    for (int group = threadIdx.x; group < groups; group += kThreads) params.offsets[group] = starts[group];
  }

  for (std::int64_t first = begin; first < end; first += kWarpLanes) {
    const std::int64_t a = first + lane;
    const int group = a < end ? group_of(params, a) : groups;
    const unsigned peers = __match_any_sync(kAllLanes, group);
    if (a < end) {
      const int before = __popc(peers & ((1u << lane) - 1));
      params.order[starts[group] + mine[group] + before] = static_cast<std::int32_t>(a);
    }
    __syncwarp();
    if (a < end && peers >> lane == 1) mine[group] += __popc(peers);  // the highest lane of each group
    __syncwarp();
  }
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
  const std::size_t histogram_bytes = (params.num_experts + 1) * sizeof(std::int32_t);
  LaunchConfig config{dim3(static_cast<unsigned>(params.blocks)), dim3(kThreads), histogram_bytes, params.stream};
  if (params.blocks > 1) {
    if (const int error = launch(config, count_kernel, params)) return error;
  }
  config.shared_bytes = (1 + kWarps) * histogram_bytes;
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

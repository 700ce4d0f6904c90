// The stable counting sort of expert_order by one block, or by its share of several: see permute_sm80.cu.
#pragma once

#include <cstdint>

#include "cuda/reduce.h"
#include "permute/permute_cuda.h"

namespace llada::cuda {

inline constexpr int kSortThreads = 256, kSortWarps = kSortThreads / kWarpLanes;
static_assert(kSortChunkMultiple % kSortThreads == 0);

__host__ __device__ constexpr int sort_counters(int num_experts) { return (1 + kSortWarps) * (num_experts + 1); }

__device__ __forceinline__ int group_of(const ExpertOrderParams& params, std::int64_t assignment) {
  const std::int64_t expert = params.wide_experts ? static_cast<const std::int64_t*>(params.experts)[assignment]
                                                  : static_cast<const std::int32_t*>(params.experts)[assignment];
  return expert >= 0 && expert < params.num_experts ? static_cast<int>(expert) : params.num_experts;
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

// A block's part of expert_order: places its chunk, and writes offsets if it is block 0. All kSortThreads threads of a
// one-dimensional block call it; `starts` is shared memory of sort_counters(num_experts) elements: [groups], then
// next [kSortWarps, groups]. order and offsets may be shared memory, too, if there is one block.
__device__ __forceinline__ void place_chunk(const ExpertOrderParams& params, std::int32_t* starts, unsigned this_block,
                                            unsigned blocks) {
  const int groups = params.num_experts + 1, warp = threadIdx.x / kWarpLanes, lane = threadIdx.x % kWarpLanes;
  std::int32_t* next = starts + groups;
  for (int i = threadIdx.x; i < kSortWarps * groups; i += kSortThreads) next[i] = 0;
  __syncthreads();
  const std::int64_t share = params.chunk / kSortWarps, begin = this_block * params.chunk + warp * share;
  const std::int64_t end = min(begin + share, params.assignments);
  std::int32_t* mine = next + warp * groups;
  for (std::int64_t a = begin + lane; a < end; a += kWarpLanes) atomicAdd(&mine[group_of(params, a)], 1);
  __syncthreads();

  for (int group = threadIdx.x; group < groups; group += kSortThreads) {
    std::int32_t before = 0, total = 0;  // in the blocks before this one, and in all
    if (blocks > 1) {
#pragma unroll 8
      for (unsigned block = 0; block < blocks; ++block) {
        const std::int32_t count = params.counts[block * static_cast<std::int64_t>(groups) + group];
        if (block < this_block) before += count;
        total += count;
      }
    }
    std::int32_t sum = before;
    for (int w = 0; w < kSortWarps; ++w) {
      const std::int32_t count = next[w * groups + group];
      next[w * groups + group] = sum;
      sum += count;
    }
    starts[group] = blocks > 1 ? total : sum;
  }
  __syncthreads();
  if (warp == 0) scan_groups(starts, groups);
  __syncthreads();
  if (this_block == 0) {
    for (int group = threadIdx.x; group < groups; group += kSortThreads) params.offsets[group] = starts[group];
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

}  // namespace llada::cuda

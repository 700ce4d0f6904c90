// The stable counting sort of expert_order by one block, or by its share of several: see permute_sm80.cu.
#pragma once

#include <cstdint>

#include "cuda/reduce.h"
#include "permute/permute_cuda.h"

namespace llada::cuda {

inline constexpr int kSortThreads = 256, kSortWarps = kSortThreads / kWarpLanes;
static_assert(kSortChunkMultiple % kSortThreads == 0);

__host__ __device__ constexpr int sort_counters(int num_experts) { return (2 + kSortWarps) * (num_experts + 1); }

__device__ __forceinline__ int group_of(const ExpertOrderParams& params, std::int64_t expert) {
  return expert >= 0 && expert < params.num_experts ? static_cast<int>(expert) : params.num_experts;
}

__device__ __forceinline__ int group_at(const ExpertOrderParams& params, std::int64_t assignment) {
  return group_of(params, params.wide_experts ? static_cast<const std::int64_t*>(params.experts)[assignment]
                                              : static_cast<const std::int32_t*>(params.experts)[assignment]);
}

// Of the assignments outside a block's begin .. end: how many of each group come before it, and how many after.
template <class Index>
__device__ __forceinline__ void count_others(const ExpertOrderParams& params, std::int64_t begin, std::int64_t end,
                                             std::int32_t* before, std::int32_t* after) {
  constexpr int kBatch = 8;  // reads under way
  const auto* experts = static_cast<const Index*>(params.experts);
  for (std::int64_t first = threadIdx.x; first < params.assignments; first += kBatch * blockDim.x) {
    Index batch[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const std::int64_t a = first + i * blockDim.x;
      batch[i] = a < params.assignments ? experts[a] : 0;
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const std::int64_t a = first + i * blockDim.x;
      if (a >= params.assignments || (a >= begin && a < end)) continue;
      atomicAdd((a < begin ? before : after) + group_of(params, batch[i]), 1);
    }
  }
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

// A block's part of expert_order: places its chunk, and writes offsets if it is block 0. All threads of a
// one-dimensional block call it, at least kSortThreads: the first of them place, all count what other blocks place.
// `starts` is shared memory of sort_counters(num_experts) elements: [groups], then next [1 + kSortWarps, groups], whose
// row 0 is of the blocks before. order and offsets may be shared memory, too, if there is one block.
__device__ __forceinline__ void place_chunk(const ExpertOrderParams& params, std::int32_t* starts, unsigned this_block,
                                            unsigned blocks) {
  const int groups = params.num_experts + 1, warp = threadIdx.x / kWarpLanes, lane = threadIdx.x % kWarpLanes;
  std::int32_t* next = starts + groups;
  const auto threads = static_cast<int>(blockDim.x);
  for (int i = threadIdx.x; i < sort_counters(params.num_experts); i += threads) starts[i] = 0;
  __syncthreads();
  const std::int64_t share = params.chunk / kSortWarps, chunk = this_block * params.chunk;
  const std::int64_t begin = chunk + warp * share;
  const std::int64_t end = warp < kSortWarps ? min(begin + share, params.assignments) : begin;
  std::int32_t* mine = next + (1 + warp) * groups;
  for (std::int64_t a = begin + lane; a < end; a += kWarpLanes) atomicAdd(&mine[group_at(params, a)], 1);
  if (blocks > 1) {
    if (params.wide_experts) {
      count_others<std::int64_t>(params, chunk, chunk + params.chunk, next, starts);
    } else {
      count_others<std::int32_t>(params, chunk, chunk + params.chunk, next, starts);
    }
  }
  __syncthreads();

  for (int group = threadIdx.x; group < groups; group += threads) {
    std::int32_t sum = 0;
    for (int row = 0; row <= kSortWarps; ++row) {
      const std::int32_t count = next[row * groups + group];
      next[row * groups + group] = sum;
      sum += count;
    }
    starts[group] += sum;
  }
  __syncthreads();
  if (warp == 0) scan_groups(starts, groups);
  __syncthreads();
  if (this_block == 0) {
    for (int group = threadIdx.x; group < groups; group += threads) params.offsets[group] = starts[group];
  }

  for (std::int64_t first = begin; first < end; first += kWarpLanes) {
    const std::int64_t a = first + lane;
    const int group = a < end ? group_at(params, a) : groups;
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

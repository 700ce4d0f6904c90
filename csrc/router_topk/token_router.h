// One token's routing by a warp, its E scores in registers; no barrier but the warp's own.
//
//   lane l holds experts [l * P, (l + 1) * P), P = kPerLane = 2, 8 or 32: of two equal scores the lower lane's, then
//   the lower slot's, belongs to the lower expert
//   scores -> + bias -> groups (their two best, the best groups)
//          -> k rounds of: each lane's best, the warp's best
//
// A score (never -0) is compared as an unsigned key in its order, NaN first, so that one redux.sync finds the warp's
// best; a taken expert's key becomes 0, below that of minus infinity. The token's row of shared memory holds what the
// choice looks at while groups are formed, then what the weights are taken from. Sums run over a fixed tree: a token's
// result depends on its own row alone.
#pragma once

#include <cstdint>

#include "cuda/element.h"
#include "cuda/reduce.h"
#include "router_topk/router_topk_cuda.h"

namespace llada::cuda {

inline constexpr unsigned kTaken = 0, kNanKey = 0xffffffffu;

__device__ __forceinline__ float load_float(const void* values, DType dtype, std::int64_t at) {
  switch (dtype) {
    case DType::kBFloat16:
      return to_float(static_cast<const __nv_bfloat16*>(values)[at]);
    case DType::kFloat16:
      return to_float(static_cast<const __half*>(values)[at]);
    default:
      return static_cast<const float*>(values)[at];
  }
}

// Larger for what comes first; 0 for no score at all.
__device__ __forceinline__ unsigned key_of(float score) {
  if (score != score) return kNanKey;
  const unsigned bits = __float_as_uint(score);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The index of the largest key of the warp, the lowest of equals; that key is then taken.
template <int kPerLane>
__device__ __forceinline__ int take_best(unsigned (&keys)[kPerLane]) {
  const int lane = threadIdx.x % kWarpLanes;
  unsigned best = keys[0];
  int slot = 0;
#pragma unroll
  for (int i = 1; i < kPerLane; ++i) {
    if (keys[i] > best) {
      best = keys[i];
      slot = i;
    }
  }
  const unsigned winners = __ballot_sync(kAllLanes, best == __reduce_max_sync(kAllLanes, best));
  const int winner = __ffs(static_cast<int>(winners)) - 1;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (lane == winner && i == slot) keys[i] = kTaken;
  }
  return __shfl_sync(kAllLanes, lane * kPerLane + slot, winner);
}

template <int kPerLane>
class TokenRouter {
 public:
  // logit_of(expert); `row` is shared memory of num_experts elements, where the logits themselves may lie.
  template <class LogitOf>
  __device__ TokenRouter(const RouterTopkParams& params, float* row, LogitOf logit_of)
      : params_(params), first_(threadIdx.x % kWarpLanes * kPerLane), row_(row) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) scores_[i] = present(i) ? logit_of(first_ + i) : -INFINITY;
  }

  __device__ void route(float* weights, std::int32_t* experts) {
    if (params_.sigmoid) {
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) scores_[i] = 1.0f / (1.0f + expf(-scores_[i]));
    } else {
      softmax();
    }
    float selection[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      selection[i] = scores_[i];
      if (params_.bias != nullptr && present(i)) {
        selection[i] += load_float(params_.bias, params_.bias_dtype, (first_ + i) * params_.bias_stride);
      }
      if (params_.bias_in_weights) scores_[i] = selection[i];
    }
    unsigned keys[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) keys[i] = present(i) ? key_of(selection[i]) : kTaken;
    if (params_.num_groups > 1) keep_best_groups(selection, keys);
    share(scores_);
    choose(keys, weights, experts);
  }

 private:
  __device__ bool present(int i) const { return first_ + i < params_.num_experts; }

  // The lanes' values as one row, for all of them to read.
  __device__ void share(const float (&values)[kPerLane]) {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (present(i)) row_[first_ + i] = values[i];
    }
    __syncwarp();
  }

  __device__ void softmax() {
    float maximum = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) maximum = fmaxf(maximum, scores_[i]);
#pragma unroll
    for (int distance = kWarpLanes / 2; distance > 0; distance /= 2) {
      maximum = fmaxf(maximum, __shfl_xor_sync(kAllLanes, maximum, distance));
    }
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (present(i)) sum += scores_[i] = expf(scores_[i] - maximum);
    }
    sum = warp_sum(sum);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) scores_[i] /= sum;
  }

  // The sum of the two best of group g, in the order of key_of.
  __device__ float two_best(int g) const {
    const int size = params_.num_experts / params_.num_groups;
    const float* group = row_ + g * size;
    float best = group[0], second = 0.0f;
    for (int i = 1; i < size; ++i) {
      const bool first = key_of(group[i]) > key_of(best);
      if (first || i == 1 || key_of(group[i]) > key_of(second)) second = first ? best : group[i];
      if (first) best = group[i];
    }
    return size > 1 ? best + second : best;
  }

  // Experts of the other groups count as minus infinity. Lane l holds groups [l * P, (l + 1) * P).
  __device__ void keep_best_groups(const float (&selection)[kPerLane], unsigned (&keys)[kPerLane]) {
    share(selection);
    unsigned groups[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      groups[i] = first_ + i < params_.num_groups ? key_of(two_best(first_ + i)) : kTaken;
    }
    __syncwarp();
    // From here on row_[g] says whether group g is kept.
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (first_ + i < params_.num_groups) row_[first_ + i] = 0.0f;
    }
    __syncwarp();
    for (int kept = 0; kept < params_.topk_groups; ++kept) {
      const int best = take_best(groups);
      if (threadIdx.x % kWarpLanes == 0) row_[best] = 1.0f;
    }
    __syncwarp();
    const int size = params_.num_experts / params_.num_groups;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (present(i) && row_[(first_ + i) / size] == 0.0f) keys[i] = key_of(-INFINITY);
    }
  }

  // The k best; every lane knows each choice, lane `slot` of the warp keeps it.
  __device__ void choose(unsigned (&keys)[kPerLane], float* weights, std::int32_t* experts) {
    const int lane = threadIdx.x % kWarpLanes;
    float sum = 0.0f;
    for (int slot = 0; slot < params_.k; ++slot) {
      const int expert = take_best(keys);
      const float weight = row_[expert];
      sum += weight;
      if (lane == slot % kWarpLanes) {
        experts[slot] = expert;
        weights[slot] = weight;
      }
    }
    const float divisor = sum + 1e-20f;
    for (int slot = lane; slot < params_.k; slot += kWarpLanes) {
      weights[slot] = (params_.renormalize ? weights[slot] / divisor : weights[slot]) * params_.scale;
    }
  }

  const RouterTopkParams& params_;
  int first_;
  float* row_;
  float scores_[kPerLane];
};

}  // namespace llada::cuda

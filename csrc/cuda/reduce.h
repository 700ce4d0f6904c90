// Reductions over the lanes of a warp and the threads of a block. The order of additions is fixed by the lane numbers
// alone, and every lane gets the same bits.
#pragma once

#include "cuda/toolkit.h"

namespace llada::cuda {

inline constexpr int kWarpLanes = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};

// NaN is greater than every number, as in torch.max. Lanes may differ in the sign of a zero.
struct Maximum {
  __device__ __forceinline__ float operator()(float a, float b) const { return a >= b || a != a ? a : b; }
  __device__ __forceinline__ int operator()(int a, int b) const { return a > b ? a : b; }
};

// Over groups of kLanes neighbouring lanes (a power of two); all lanes of the warp call it.
template <int kLanes = kWarpLanes, class T, class Operation>
__device__ __forceinline__ T warp_reduce(T value, Operation operation) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    value = operation(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

template <int kLanes = kWarpLanes, class T>
__device__ __forceinline__ T warp_sum(T value) {
  return warp_reduce<kLanes>(value, Sum());
}

template <int kLanes = kWarpLanes, class T>
__device__ __forceinline__ T warp_max(T value) {
  return warp_reduce<kLanes>(value, Maximum());
}

// Over all kThreads threads of a one-dimensional block. `partial` is shared memory of kThreads / 32 elements that
// nothing else uses; it may be used again at once, for a barrier comes first and another before the result.
template <int kThreads, class T, class Operation>
__device__ __forceinline__ T block_reduce(T value, Operation operation, T* partial) {
  static_assert(kThreads % kWarpLanes == 0);
  constexpr int kWarps = kThreads / kWarpLanes;
  const T warp_value = warp_reduce(value, operation);
  if constexpr (kWarps == 1) return warp_value;
  __syncthreads();
  if (threadIdx.x % kWarpLanes == 0) partial[threadIdx.x / kWarpLanes] = warp_value;
  __syncthreads();
  T total = partial[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) total = operation(total, partial[warp]);
  return total;
}

template <int kThreads, class T>
__device__ __forceinline__ T block_sum(T value, T* partial) {
  return block_reduce<kThreads>(value, Sum(), partial);
}

template <int kThreads, class T>
__device__ __forceinline__ T block_max(T value, T* partial) {
  return block_reduce<kThreads>(value, Maximum(), partial);
}

}  // namespace llada::cuda

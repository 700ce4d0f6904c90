// CUDA's built-in variables and the intrinsics in which threads meet: barriers, shuffles, votes. Each remembers the
// line it was called from.
#pragma once

#include "emulate/barrier.h"
#include "emulate/scheduler.h"
#include "emulate/warp.h"

#define threadIdx (::llada::emulate::current->index)
#define blockIdx (::llada::emulate::current->block->index)
#define blockDim (::llada::emulate::current->block->size)
#define gridDim (::llada::emulate::current->block->grid)
#define warpSize 32

#define LLADA_PLACE ::llada::emulate::Place place = ::llada::emulate::Place::current()

__forceinline__ void __syncthreads(LLADA_PLACE) {
  llada::emulate::barrier_sync(0, llada::emulate::kWholeBlock, {"__syncthreads", place});
}
__forceinline__ int __syncthreads_count(int predicate, LLADA_PLACE) {
  return llada::emulate::barrier_vote(llada::emulate::Vote::kCount, predicate, {"__syncthreads_count", place});
}
__forceinline__ int __syncthreads_and(int predicate, LLADA_PLACE) {
  return llada::emulate::barrier_vote(llada::emulate::Vote::kAnd, predicate, {"__syncthreads_and", place});
}
__forceinline__ int __syncthreads_or(int predicate, LLADA_PLACE) {
  return llada::emulate::barrier_vote(llada::emulate::Vote::kOr, predicate, {"__syncthreads_or", place});
}

__forceinline__ void __syncwarp(unsigned mask = llada::emulate::kFullWarp, LLADA_PLACE) {
  llada::emulate::warp_sync(mask, {"__syncwarp", place});
}

template <class T>
__forceinline__ T __shfl_sync(unsigned mask, T value, int lane, int width = 32, LLADA_PLACE) {
  return llada::emulate::shuffle(mask, llada::emulate::Shuffle::kIndex, value, lane, width, {"__shfl_sync", place});
}
template <class T>
__forceinline__ T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, LLADA_PLACE) {
  return llada::emulate::shuffle(mask, llada::emulate::Shuffle::kUp, value, static_cast<int>(delta), width,
                                 {"__shfl_up_sync", place});
}
template <class T>
__forceinline__ T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, LLADA_PLACE) {
  return llada::emulate::shuffle(mask, llada::emulate::Shuffle::kDown, value, static_cast<int>(delta), width,
                                 {"__shfl_down_sync", place});
}
template <class T>
__forceinline__ T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, LLADA_PLACE) {
  return llada::emulate::shuffle(mask, llada::emulate::Shuffle::kXor, value, lanes, width, {"__shfl_xor_sync", place});
}

__forceinline__ unsigned __ballot_sync(unsigned mask, int predicate, LLADA_PLACE) {
  return llada::emulate::warp_ballot(mask, predicate != 0, {"__ballot_sync", place});
}
__forceinline__ int __any_sync(unsigned mask, int predicate, LLADA_PLACE) {
  return llada::emulate::warp_ballot(mask, predicate != 0, {"__any_sync", place}) != 0;
}
__forceinline__ int __all_sync(unsigned mask, int predicate, LLADA_PLACE) {
  return llada::emulate::warp_ballot(mask, predicate != 0, {"__all_sync", place}) == mask;
}
template <class T>
__forceinline__ unsigned __match_any_sync(unsigned mask, T value, LLADA_PLACE) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return llada::emulate::warp_match_any(mask, bits, {"__match_any_sync", place});
}

#define LLADA_REDUCE(name, type, kind)                                                                        \
  __forceinline__ type name(unsigned mask, type value, LLADA_PLACE) {                                         \
    return static_cast<type>(llada::emulate::warp_reduce(mask, llada::emulate::Reduction::kind,               \
                                                         static_cast<std::uint32_t>(value), {#name, place})); \
  }
LLADA_REDUCE(__reduce_add_sync, int, kAddSigned)
LLADA_REDUCE(__reduce_add_sync, unsigned, kAddSigned)
LLADA_REDUCE(__reduce_min_sync, int, kMinSigned)
LLADA_REDUCE(__reduce_min_sync, unsigned, kMinUnsigned)
LLADA_REDUCE(__reduce_max_sync, int, kMaxSigned)
LLADA_REDUCE(__reduce_max_sync, unsigned, kMaxUnsigned)
LLADA_REDUCE(__reduce_and_sync, unsigned, kAnd)
LLADA_REDUCE(__reduce_or_sync, unsigned, kOr)
LLADA_REDUCE(__reduce_xor_sync, unsigned, kXor)
#undef LLADA_REDUCE

__forceinline__ void __threadfence() { llada::emulate::thread_fence(); }
__forceinline__ void __threadfence_block() { llada::emulate::thread_fence(); }
// A loop that waits for another thread must contain it: nothing else lets that thread run.
__forceinline__ void __nanosleep(unsigned, LLADA_PLACE) { llada::emulate::yield({"__nanosleep", place}); }
[[noreturn]] __forceinline__ void __trap() { llada::emulate::fail("__trap"); }

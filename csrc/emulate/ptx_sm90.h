// The functions of cuda/ptx_sm90.h, whose contracts stand there, for the emulator. Fences, register counts and
// dependent launches have no effect here (docs/emulation.md).
#pragma once

#include "emulate/copy_engine.h"
#include "emulate/mbarrier.h"
#include "emulate/ptx_sm80.h"
#include "emulate/wgmma.h"

namespace llada::ptx {

using TensorMap = emulate::TensorMap;

__forceinline__ void mbarrier_init(std::uint64_t* barrier, unsigned arrivals, LLADA_PLACE) {
  emulate::mbarrier_init(barrier, arrivals, {"mbarrier.init", place});
}
__forceinline__ void fence_mbarrier_init() {}
__forceinline__ void mbarrier_arrive(std::uint64_t* barrier, LLADA_PLACE) {
  emulate::mbarrier_arrive(barrier, 0, {"mbarrier.arrive", place});
}
__forceinline__ void mbarrier_expect_tx(std::uint64_t* barrier, unsigned bytes, LLADA_PLACE) {
  emulate::mbarrier_expect(barrier, bytes, {"mbarrier.expect_tx", place});
}
__forceinline__ void mbarrier_arrive_expect_tx(std::uint64_t* barrier, unsigned bytes, LLADA_PLACE) {
  emulate::mbarrier_arrive(barrier, bytes, {"mbarrier.arrive.expect_tx", place});
}
__forceinline__ bool mbarrier_test_wait(std::uint64_t* barrier, unsigned parity, LLADA_PLACE) {
  return emulate::mbarrier_test(barrier, parity, {"mbarrier.test_wait", place});
}
__forceinline__ void mbarrier_wait(std::uint64_t* barrier, unsigned parity, LLADA_PLACE) {
  emulate::mbarrier_wait(barrier, parity, {"mbarrier wait", place});
}
__forceinline__ void cp_async_mbarrier_arrive_noinc(std::uint64_t* barrier, LLADA_PLACE) {
  emulate::issue_arrival_after_copies(barrier, {"cp.async.mbarrier.arrive.noinc", place});
}

__forceinline__ void fence_proxy_async() {}

__forceinline__ void cp_async_bulk(void* shared, const void* global, unsigned bytes, std::uint64_t* barrier,
                                   CacheHint = CacheHint::kNormal, LLADA_PLACE) {
  emulate::issue_bulk_copy(shared, global, bytes, barrier, {"cp.async.bulk", place});
}
__forceinline__ void tma_load_2d(void* shared, const TensorMap* map, int column, int row, std::uint64_t* barrier,
                                 CacheHint = CacheHint::kNormal, LLADA_PLACE) {
  emulate::issue_tile_copy(shared, *map, 2, {column, row, 0}, barrier, {"cp.async.bulk.tensor.2d", place});
}
__forceinline__ void tma_load_3d(void* shared, const TensorMap* map, int column, int row, int plane,
                                 std::uint64_t* barrier, CacheHint = CacheHint::kNormal, LLADA_PLACE) {
  emulate::issue_tile_copy(shared, *map, 3, {column, row, plane}, barrier, {"cp.async.bulk.tensor.3d", place});
}
__forceinline__ void prefetch_tensor_map(const TensorMap*) {}

template <int kMatrices>
__forceinline__ void stmatrix(void* shared_row, const std::uint32_t (&values)[kMatrices], LLADA_PLACE) {
  detail::store_matrices(shared_row, values, false, {"stmatrix", place});
}
template <int kMatrices>
__forceinline__ void stmatrix_trans(void* shared_row, const std::uint32_t (&values)[kMatrices], LLADA_PLACE) {
  detail::store_matrices(shared_row, values, true, {"stmatrix.trans", place});
}

// Tiles that wgmma reads lie in dynamic shared memory, whose first byte has address 0 here.
__forceinline__ std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(static_cast<const char*>(shared) - emulate::current->block->shared);
}

__forceinline__ void wgmma_fence() {}
__forceinline__ void wgmma_commit_group(LLADA_PLACE) { emulate::wgmma_commit({"wgmma.commit_group", place}); }
template <int kGroups>
__forceinline__ void wgmma_wait_group(LLADA_PLACE) {
  emulate::wgmma_wait(kGroups, {"wgmma.wait_group", place});
}

template <class Element, int kColumns, Major kMajorA = Major::kK, Major kMajorB = Major::kK>
__forceinline__ void wgmma(float (&d)[kColumns / 2], std::uint64_t a, std::uint64_t b, bool accumulate, LLADA_PLACE) {
  emulate::wgmma_issue({detail::float16<Element>(), kColumns, kMajorA == Major::kMN, kMajorB == Major::kMN, accumulate,
                        nullptr, a, b, d},
                       {"wgmma.mma_async", place});
}
template <class Element, int kColumns, Major kMajorB = Major::kK>
__forceinline__ void wgmma(float (&d)[kColumns / 2], const std::uint32_t (&a)[4], std::uint64_t b, bool accumulate,
                           LLADA_PLACE) {
  emulate::wgmma_issue({detail::float16<Element>(), kColumns, false, kMajorB == Major::kMN, accumulate, a, 0, b, d},
                       {"wgmma.mma_async", place});
}

template <int kRegisters>
__forceinline__ void set_max_registers_up() {}
template <int kRegisters>
__forceinline__ void set_max_registers_down() {}

__forceinline__ void wait_for_previous_kernel() {}
__forceinline__ void launch_next_kernel() {}

}  // namespace llada::ptx

// The functions of cuda/ptx_sm80.h, whose contracts stand there, for the emulator.
#pragma once

#include "emulate/matrix.h"
#include "emulate/memory_access.h"
#include "emulate/toolkit.h"

namespace llada::ptx {

template <int kBytes>
__forceinline__ void cp_async(void* shared, const void* global, int valid_bytes = kBytes, LLADA_PLACE) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  const emulate::AsyncCopy copy{shared, global, kBytes, static_cast<unsigned>(valid_bytes)};
  if (!emulate::defer_copy(copy, {"cp.async", place})) emulate::move_bytes(copy);
}

__forceinline__ void cp_async_commit_group() { emulate::commit_copies(); }

template <int kGroups>
__forceinline__ void cp_async_wait_group() {
  emulate::AsyncCopy copy;
  while (emulate::take_due_copy(kGroups, copy)) emulate::move_bytes(copy);
}

__forceinline__ void cp_async_wait_all() {
  emulate::AsyncCopy copy;
  while (emulate::take_any_copy(copy)) emulate::move_bytes(copy);
}

namespace detail {

template <int kMatrices>
__forceinline__ void load_matrices(std::uint32_t (&result)[kMatrices], const void* row, bool transposed,
                                   const emulate::Where& where) {
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4);
  uint4 elements{};
  if (emulate::current->lane < 8 * kMatrices) {
    emulate::check_row(row, where);
    elements = *static_cast<const uint4*>(row);
  }
  emulate::load_matrix(kMatrices, transposed, elements, result, where);
}

// Every lane writes the row whose address it gave.
template <int kMatrices>
__forceinline__ void store_matrices(void* row, const std::uint32_t (&values)[kMatrices], bool transposed,
                                    const emulate::Where& where) {
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4);
  const uint4 elements = emulate::store_matrix(kMatrices, transposed, values, where);
  if (emulate::current->lane >= 8 * kMatrices) return;
  emulate::check_row(row, where);
  *static_cast<uint4*>(row) = elements;
}

template <class Element>
constexpr emulate::Float16 float16() {
  static_assert(std::is_same_v<Element, __nv_bfloat16> || std::is_same_v<Element, __half>);
  return std::is_same_v<Element, __half> ? emulate::Float16::kHalf : emulate::Float16::kBFloat16;
}

}  // namespace detail

template <int kMatrices>
__forceinline__ void ldmatrix(std::uint32_t (&result)[kMatrices], const void* shared_row, LLADA_PLACE) {
  detail::load_matrices(result, shared_row, false, {"ldmatrix", place});
}

template <int kMatrices>
__forceinline__ void ldmatrix_trans(std::uint32_t (&result)[kMatrices], const void* shared_row, LLADA_PLACE) {
  detail::load_matrices(result, shared_row, true, {"ldmatrix.trans", place});
}

template <class Element>
__forceinline__ void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
                                  LLADA_PLACE) {
  const std::uint32_t b[2] = {b0, b1};
  emulate::multiply_m16n8k16(detail::float16<Element>(), d, a, b, {"mma.sync", place});
}

__forceinline__ void barrier_sync(unsigned barrier, unsigned threads, LLADA_PLACE) {
  emulate::barrier_sync(barrier, threads, {"bar.sync", place});
}
__forceinline__ void barrier_arrive(unsigned barrier, unsigned threads, LLADA_PLACE) {
  emulate::barrier_arrive(barrier, threads, {"bar.arrive", place});
}

__forceinline__ unsigned load_acquire(const unsigned* global) { return __atomic_load_n(global, __ATOMIC_ACQUIRE); }
__forceinline__ void store_release(unsigned* global, unsigned value) {
  __atomic_store_n(global, value, __ATOMIC_RELEASE);
}
__forceinline__ unsigned atomic_add_acquire_release(unsigned* global, unsigned value) {
  return __atomic_fetch_add(global, value, __ATOMIC_ACQ_REL);
}
__forceinline__ uint4 load_streaming(const void* global) { return *static_cast<const uint4*>(global); }

}  // namespace llada::ptx

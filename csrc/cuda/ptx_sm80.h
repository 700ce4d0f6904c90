// One function per PTX instruction of sm_80 that CUDA C++ has no name for: asynchronous copies, matrix loads, the
// tensor-core product. Kernels contain no inline assembly; the emulator supplies the same functions.
#pragma once

#include <cstdint>

#include "cuda/toolkit.h"

#ifdef LLADA_EMULATE
#include "emulate/ptx_sm80.h"
#else

namespace llada::ptx {

// An address in shared memory as PTX wants it.
__device__ __forceinline__ std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

// --- cp.async
// Starts copying kBytes (4, 8 or 16, both addresses aligned to it) from global to shared memory. Only the first
// valid_bytes are read, the rest of the destination becomes zero; with 0 the source may be any aligned address.
template <int kBytes>
__device__ __forceinline__ void cp_async(void* shared, const void* global, int valid_bytes = kBytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global),
                 "n"(kBytes), "r"(valid_bytes)
                 : "memory");
  }
}

// The thread's copies since the last commit form a group, possibly an empty one.
__device__ __forceinline__ void cp_async_commit_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most kGroups of the thread's groups are in flight. Other threads' copies need a barrier besides.
template <int kGroups>
__device__ __forceinline__ void cp_async_wait_group() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

// Waits for all of the thread's copies, committed or not.
__device__ __forceinline__ void cp_async_wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// --- ldmatrix
// Loads kMatrices (1, 2 or 4) matrices of 8 x 8 16-bit elements. Lanes 8 i … 8 i + 7 give the addresses of matrix i's
// rows (16 bytes each, aligned to 16). Lane l receives elements (l / 4, l % 4 * 2) and the one after it in one register
// per matrix; transposed, elements (l % 4 * 2, l / 4) and the one below it.
template <int kMatrices>
__device__ __forceinline__ void ldmatrix(std::uint32_t (&result)[kMatrices], const void* shared_row) {
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4);
  const std::uint32_t row = shared_address(shared_row);
  if constexpr (kMatrices == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(result[0]) : "r"(row) : "memory");
  } else if constexpr (kMatrices == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(result[0]), "=r"(result[1])
                 : "r"(row)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
                 : "r"(row)
                 : "memory");
  }
}

template <int kMatrices>
__device__ __forceinline__ void ldmatrix_trans(std::uint32_t (&result)[kMatrices], const void* shared_row) {
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4);
  const std::uint32_t row = shared_address(shared_row);
  if constexpr (kMatrices == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(result[0]) : "r"(row) : "memory");
  } else if constexpr (kMatrices == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(result[0]), "=r"(result[1])
                 : "r"(row)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
                 : "r"(row)
                 : "memory");
  }
}

// --- mma
// d (16 x 8, float) += a (16 x 16) * b (16 x 8), elements __nv_bfloat16 or __half. With g = lane / 4, t = lane % 4 * 2:
//   a[0]: (g, t)  a[1]: (g + 8, t)  a[2]: (g, t + 8)  a[3]: (g + 8, t + 8), each with the element to its right
//   b0: (t, g)    b1: (t + 8, g), each with the element below it
//   d[0], d[1]: (g, t), (g, t + 1)   d[2], d[3]: (g + 8, t), (g + 8, t + 1)
// ldmatrix<4> of a's four 8 x 8 quarters, rows first, gives a; ldmatrix<2> of b's columns stored as rows gives b0, b1.
template <class Element>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                             std::uint32_t b1);

#define LLADA_MMA(type)                                                               \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))

template <>
__device__ __forceinline__ void mma_m16n8k16<__nv_bfloat16>(float (&d)[4], const std::uint32_t (&a)[4],
                                                            std::uint32_t b0, std::uint32_t b1) {
  LLADA_MMA("bf16");
}

template <>
__device__ __forceinline__ void mma_m16n8k16<__half>(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                                     std::uint32_t b1) {
  LLADA_MMA("f16");
}

#undef LLADA_MMA

// --- named barriers
// Barrier 1 … 15 (0 is __syncthreads') among `threads` of the block, a multiple of 32: sync waits for the others,
// arrive does not. Memory written before is seen by those that sync.
__device__ __forceinline__ void barrier_sync(unsigned barrier, unsigned threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

__device__ __forceinline__ void barrier_arrive(unsigned barrier, unsigned threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// --- memory order between blocks, through a counter or flag in global memory
// What the thread wrote before a release is seen by a thread whose acquire reads the value it wrote.
__device__ __forceinline__ unsigned load_acquire(const unsigned* global) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(global) : "memory");
  return value;
}

__device__ __forceinline__ void store_release(unsigned* global, unsigned value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(global), "r"(value) : "memory");
}

// Adds and returns the old value; acquires and releases.
__device__ __forceinline__ unsigned atomic_add_acquire_release(unsigned* global, unsigned value) {
  unsigned old;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(global), "r"(value) : "memory");
  return old;
}

// 16 bytes that will not be read again: kept out of L1.
__device__ __forceinline__ uint4 load_streaming(const void* global) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global));
  return v;
}

}  // namespace llada::ptx

#endif

// One function per PTX instruction of sm_90a, after those of sm_80: mbarriers, bulk and tile copies (TMA), the
// asynchronous product of a warpgroup. Kernels contain no inline assembly; the emulator supplies the same functions.
#pragma once

#include "cuda/ptx_sm80.h"

#ifndef LLADA_EMULATE
#include <cuda.h>
#endif

namespace llada::ptx {

// How long the second-level cache keeps what a copy reads (the policies that createpolicy makes for whole accesses).
enum class CacheHint : std::uint64_t {
  kNormal = 0x1000000000000000,
  kEvictFirst = 0x12f0000000000000,
  kEvictLast = 0x14f0000000000000,
};

// Which index of an operand runs along the 128-byte rows of its tile: kK, the one that is summed over, or kMN.
enum class Major { kK = 0, kMN = 1 };

// A tile that wgmma reads: rows of 128 bytes, 8 rows a swizzle period of 1024 bytes, aligned to it, as tma_load writes
// them (the 16-byte chunk c of row r stands at chunk c ^ r % 8).
//   K-major    rows are m or n, a row 64 elements of k; the next 16 of k begin 32 bytes further on
//   MN-major   rows are k, a row 64 elements of m or n; the next 16 of k begin 2048 bytes further on, the next 64 of m
//   or
//              n `group_bytes`
__device__ __forceinline__ std::uint64_t tile_descriptor(std::uint32_t address, std::uint32_t group_bytes = 16) {
  constexpr std::uint64_t kPeriodBytes = 1024, kSwizzle128 = 1;
  return (address & 0x3ffff) >> 4 | std::uint64_t{group_bytes >> 4} << 16 | (kPeriodBytes >> 4) << 32 |
         kSwizzle128 << 62;
}

}  // namespace llada::ptx

#ifdef LLADA_EMULATE
#include "emulate/ptx_sm90.h"
#else

namespace llada::ptx {

using TensorMap = CUtensorMap;

// --- mbarrier: 8 bytes of shared memory, aligned to 8. A phase ends when `arrivals` have come and as many bytes as
// expected; the barrier is then ready for the next phase. Phases have parities 0, 1, 0, …
__device__ __forceinline__ void mbarrier_init(std::uint64_t* barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// After the inits, by the thread that made them and before the block's barrier: makes them known to copies.
__device__ __forceinline__ void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive(std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// The current phase waits for that many bytes more.
__device__ __forceinline__ void mbarrier_expect_tx(std::uint64_t* barrier, unsigned bytes) {
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void mbarrier_arrive_expect_tx(std::uint64_t* barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

// Whether the phase of that parity has ended, at once.
__device__ __forceinline__ bool mbarrier_test_wait(std::uint64_t* barrier, unsigned parity) {
  unsigned ended;
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(ended)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return ended != 0;
}

// Waits until the phase of that parity has ended. A fresh barrier is in phase 0, and its phase "before" (parity 1)
// counts as ended.
__device__ __forceinline__ void mbarrier_wait(std::uint64_t* barrier, unsigned parity) {
  const std::uint32_t address = shared_address(barrier);
  unsigned ended;
  do {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(ended)
        : "r"(address), "r"(parity)
        : "memory");
  } while (ended == 0);
}

// One arrival, when all cp.async that the thread has issued so far are done. The barrier's count includes it.
__device__ __forceinline__ void cp_async_mbarrier_arrive_noinc(std::uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Between ordinary accesses to shared memory and those of TMA or wgmma to the same bytes.
__device__ __forceinline__ void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// --- copies from global to shared memory by the copy engine, issued by one thread. Their bytes count at `barrier`.
// A contiguous run: both addresses and the size are multiples of 16.
__device__ __forceinline__ void cp_async_bulk(void* shared, const void* global, unsigned bytes, std::uint64_t* barrier,
                                              CacheHint hint = CacheHint::kNormal) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
          "r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier)), "l"(hint)
      : "memory");
}

// A tile of the map's box_rows x 128 bytes with 128-byte swizzle; `shared` is aligned to 1024. Elements outside the
// tensor arrive as zeros, and count.
__device__ __forceinline__ void tma_load_2d(void* shared, const TensorMap* map, int column, int row,
                                            std::uint64_t* barrier, CacheHint hint = CacheHint::kNormal) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(shared)),
      "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier)), "l"(hint)
      : "memory");
}

__device__ __forceinline__ void tma_load_3d(void* shared, const TensorMap* map, int column, int row, int plane,
                                            std::uint64_t* barrier, CacheHint hint = CacheHint::kNormal) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(shared)),
      "l"(map), "r"(column), "r"(row), "r"(plane), "r"(shared_address(barrier)), "l"(hint)
      : "memory");
}

// The map is a __grid_constant__ parameter of the kernel.
__device__ __forceinline__ void prefetch_tensor_map(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// --- stmatrix: the reverse of ldmatrix, from registers to rows of 16 bytes in shared memory.
template <int kMatrices>
__device__ __forceinline__ void stmatrix(void* shared_row, const std::uint32_t (&values)[kMatrices]) {
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4);
  const std::uint32_t row = shared_address(shared_row);
  if constexpr (kMatrices == 1) {
    asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" ::"r"(row), "r"(values[0]) : "memory");
  } else if constexpr (kMatrices == 2) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(row), "r"(values[0]), "r"(values[1])
                 : "memory");
  } else {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(values[0]),
                 "r"(values[1]), "r"(values[2]), "r"(values[3])
                 : "memory");
  }
}

template <int kMatrices>
__device__ __forceinline__ void stmatrix_trans(void* shared_row, const std::uint32_t (&values)[kMatrices]) {
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4);
  const std::uint32_t row = shared_address(shared_row);
  if constexpr (kMatrices == 1) {
    asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(row), "r"(values[0]) : "memory");
  } else if constexpr (kMatrices == 2) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(row), "r"(values[0]),
                 "r"(values[1])
                 : "memory");
  } else {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(values[0]),
                 "r"(values[1]), "r"(values[2]), "r"(values[3])
                 : "memory");
  }
}

// --- registers of a warpgroup's threads, a multiple of 8 from 24 to 256; all its warps call it.
template <int kRegisters>
__device__ __forceinline__ void set_max_registers_up() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void set_max_registers_down() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// --- programmatic dependent launch (LaunchConfig::overlap_previous). Without it both do nothing.
// Until every block of the kernel before has ended or called launch_next_kernel, and its writes are visible.
__device__ __forceinline__ void wait_for_previous_kernel() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// The next kernel may start; what this one writes later is still waited for.
__device__ __forceinline__ void launch_next_kernel() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

}  // namespace llada::ptx

#include "cuda/ptx_sm90_wgmma.h"

#endif

// One small kernel per PTX wrapper of sm_90a, as micro_kernels_sm80.cu.
#include "cuda/launch.h"
#include "cuda/ptx_sm90.h"
#include "cuda/tensor_map.h"

namespace {

using namespace llada;

constexpr int kWarp = 32;
constexpr int kGroup = 128;              // threads of a warpgroup
constexpr int kTileBytes = 64 * 128;     // 64 rows of 128 bytes
constexpr int kDepth = 64, kStepK = 16;  // a tile's k, and an instruction's
constexpr std::size_t kSharedBytes = 56 << 10;

// Four phases of one barrier with 3 arrivals, one of which expects bytes. out: whether parities 0 and 1 had ended
// before and after each phase.
__global__ void mbarrier_kernel(const unsigned*, unsigned* out) {
  LLADA_DYNAMIC_SHARED(std::uint64_t, barrier);
  if (threadIdx.x != 0) return;
  ptx::mbarrier_init(barrier, 3);
  ptx::fence_mbarrier_init();
  for (unsigned phase = 0; phase < 4; ++phase) {
    ptx::mbarrier_arrive(barrier);
    ptx::mbarrier_arrive(barrier);
    *out++ = ptx::mbarrier_test_wait(barrier, 0) ? 1 : 0;
    *out++ = ptx::mbarrier_test_wait(barrier, 1) ? 1 : 0;
    ptx::mbarrier_arrive(barrier);
    ptx::mbarrier_wait(barrier, phase & 1);
    *out++ = ptx::mbarrier_test_wait(barrier, 0) ? 1 : 0;
    *out++ = ptx::mbarrier_test_wait(barrier, 1) ? 1 : 0;
  }
}

// in: 2 x 2048 bytes, each by a bulk copy on one barrier, expected in two parts. out: the same.
__global__ void bulk_copy_kernel(const uint4* in, uint4* out) {
  constexpr int kChunks = 128;
  LLADA_DYNAMIC_SHARED(uint4, shared);
  LLADA_SHARED_ARRAY(std::uint64_t, barrier, 1);
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(barrier, 1);
    ptx::fence_mbarrier_init();
    ptx::mbarrier_expect_tx(barrier, kChunks * 16);
    ptx::cp_async_bulk(shared, in, kChunks * 16, barrier, ptx::CacheHint::kEvictFirst);
    ptx::cp_async_bulk(shared + kChunks, in + kChunks, kChunks * 16, barrier);
    ptx::mbarrier_arrive_expect_tx(barrier, kChunks * 16);
  }
  __syncthreads();
  ptx::mbarrier_wait(barrier, 0);
  for (int i = threadIdx.x; i < 2 * kChunks; i += kWarp) out[i] = shared[i];
}

// Every lane copies 16 bytes with cp.async and lets their end arrive; no one waits for the copies themselves.
__global__ void copy_arrival_kernel(const uint4* in, uint4* out) {
  LLADA_DYNAMIC_SHARED(uint4, shared);
  LLADA_SHARED_ARRAY(std::uint64_t, barrier, 1);
  const int lane = threadIdx.x;
  if (lane == 0) ptx::mbarrier_init(barrier, kWarp);
  __syncthreads();
  ptx::cp_async<16>(shared + lane, in + lane);
  ptx::cp_async_mbarrier_arrive_noinc(barrier);
  ptx::mbarrier_wait(barrier, 0);
  out[lane] = shared[kWarp - 1 - lane];
}

struct Tile {
  int column, row, plane;  // plane < 0: a map of two dimensions
};

// Copies one tile of 64 rows; out: its image in shared memory, byte for byte.
__global__ void tile_copy_kernel(const __grid_constant__ ptx::TensorMap map, Tile tile, uint4* out) {
  LLADA_DYNAMIC_SHARED(uint4, shared);
  LLADA_SHARED_ARRAY(std::uint64_t, barrier, 1);
  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&map);
    ptx::mbarrier_init(barrier, 1);
    ptx::fence_mbarrier_init();
    ptx::mbarrier_arrive_expect_tx(barrier, kTileBytes);
    if (tile.plane < 0) {
      ptx::tma_load_2d(shared, &map, tile.column, tile.row, barrier, ptx::CacheHint::kEvictLast);
    } else {
      ptx::tma_load_3d(shared, &map, tile.column, tile.row, tile.plane, barrier);
    }
  }
  __syncthreads();
  ptx::mbarrier_wait(barrier, 0);
  for (int i = threadIdx.x; i < kTileBytes / 16; i += kWarp) out[i] = shared[i];
}

// in: 32 x kMatrices registers; lane l gives the address of row (5 l + 3) % 32. out: 32 rows of 16 bytes, those that
// are not written zero.
template <int kMatrices, bool kTransposed>
__global__ void stmatrix_kernel(const std::uint32_t* in, uint4* out) {
  LLADA_DYNAMIC_SHARED(uint4, shared);
  const int lane = threadIdx.x;
  shared[lane] = uint4{0, 0, 0, 0};
  __syncwarp();
  std::uint32_t registers[kMatrices];
  for (int i = 0; i < kMatrices; ++i) registers[i] = in[lane * kMatrices + i];
  uint4* row = shared + (5 * lane + 3) % kWarp;
  if constexpr (kTransposed) {
    ptx::stmatrix_trans(row, registers);
  } else {
    ptx::stmatrix(row, registers);
  }
  __syncwarp();
  out[lane] = shared[lane];
}

// in: images of a (64 x 64) and of b (64 x N), 128-byte swizzled tiles; the four steps of k are summed. b, MN-major,
// has a tile per 64 columns. out: 128 x N / 2 floats.
template <class Element, int kColumns, ptx::Major kMajorA, ptx::Major kMajorB>
__global__ void wgmma_kernel(const uint4* in, float* out) {
  LLADA_DYNAMIC_SHARED(uint4, shared);
  constexpr int kTilesB = (kColumns + 63) / 64;
  for (int i = threadIdx.x; i < (1 + kTilesB) * kTileBytes / 16; i += kGroup) shared[i] = in[i];
  ptx::fence_proxy_async();
  __syncthreads();
  const std::uint32_t a = ptx::shared_address(shared), b = a + kTileBytes;
  constexpr std::uint32_t kStepA = kMajorA == ptx::Major::kK ? 32 : 2048,
                          kStepB = kMajorB == ptx::Major::kK ? 32 : 2048;
  float d[kColumns / 2];
  ptx::wgmma_fence();
  for (int step = 0; step < kDepth / kStepK; ++step) {
    ptx::wgmma<Element, kColumns, kMajorA, kMajorB>(d, ptx::tile_descriptor(a + step * kStepA, kTileBytes),
                                                    ptx::tile_descriptor(b + step * kStepB, kTileBytes), step != 0);
  }
  ptx::wgmma_commit_group();
  ptx::wgmma_wait_group<0>();
  for (int i = 0; i < kColumns / 2; ++i) out[threadIdx.x * (kColumns / 2) + i] = d[i];
}

// a in registers: in begins with 128 x 16 of them (4 per step of k), then b's image.
template <class Element, int kColumns, ptx::Major kMajorB>
__global__ void wgmma_registers_kernel(const uint4* in, float* out) {
  LLADA_DYNAMIC_SHARED(uint4, shared);
  constexpr int kTilesB = (kColumns + 63) / 64;
  const uint4* image = in + kGroup * 4;
  for (int i = threadIdx.x; i < kTilesB * kTileBytes / 16; i += kGroup) shared[i] = image[i];
  ptx::fence_proxy_async();
  __syncthreads();
  constexpr std::uint32_t kStepB = kMajorB == ptx::Major::kK ? 32 : 2048;
  std::uint32_t a[kDepth / kStepK][4];
  for (int step = 0; step < kDepth / kStepK; ++step) {
    const uint4 own = in[threadIdx.x * 4 + step];
    a[step][0] = own.x, a[step][1] = own.y, a[step][2] = own.z, a[step][3] = own.w;
  }
  float d[kColumns / 2];
  ptx::wgmma_fence();
#pragma unroll
  for (int step = 0; step < kDepth / kStepK; ++step) {
    ptx::wgmma<Element, kColumns, kMajorB>(
        d, a[step], ptx::tile_descriptor(ptx::shared_address(shared) + step * kStepB, kTileBytes), step != 0);
  }
  ptx::wgmma_commit_group();
  ptx::wgmma_wait_group<0>();
  for (int i = 0; i < kColumns / 2; ++i) out[threadIdx.x * (kColumns / 2) + i] = d[i];
}

// Instructions without a result: warpgroups exchange registers between the calls of dependent launch. Of the 168 that
// 384 threads may have each at entry, which the bound of one block tells, the first group keeps 40.
__global__ void __launch_bounds__(3 * kGroup, 1) hints_kernel(const unsigned* in, unsigned* out) {
  ptx::wait_for_previous_kernel();
  if (threadIdx.x < kGroup) {
    ptx::set_max_registers_down<40>();
  } else {
    ptx::set_max_registers_up<232>();
  }
  out[threadIdx.x] = in[threadIdx.x];
  ptx::launch_next_kernel();
}

template <class In, class Out>
int run(void (*kernel)(const In*, Out*), const void* in, void* out, unsigned threads = kWarp) {
  return cuda::launch({.grid = 1, .block = threads, .shared_bytes = kSharedBytes}, kernel, static_cast<const In*>(in),
                      static_cast<Out*>(out));
}

template <class Element, ptx::Major kMajorA, ptx::Major kMajorB>
int run_wgmma(int columns, const void* in, void* out) {
  switch (columns) {
#define CASE(n) \
  case n:       \
    return run(wgmma_kernel<Element, n, kMajorA, kMajorB>, in, out, kGroup);
    CASE(8) CASE(16) CASE(32) CASE(64) CASE(96) CASE(128) CASE(192) CASE(256)
#undef CASE
  }
  return cudaErrorInvalidValue;
}

template <class Element, ptx::Major kMajorB>
int run_wgmma_registers(int columns, const void* in, void* out) {
  switch (columns) {
#define CASE(n) \
  case n:       \
    return run(wgmma_registers_kernel<Element, n, kMajorB>, in, out, kGroup);
    CASE(8) CASE(16) CASE(32) CASE(64) CASE(96) CASE(128) CASE(192) CASE(256)
#undef CASE
  }
  return cudaErrorInvalidValue;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default"))) int
#define MICRO_KERNEL(name, ...) \
  EXPORT name(const void* in, void* out) { return run(__VA_ARGS__); }

MICRO_KERNEL(mbarrier, mbarrier_kernel, in, out)
MICRO_KERNEL(bulk_copy, bulk_copy_kernel, in, out)
MICRO_KERNEL(copy_arrival, copy_arrival_kernel, in, out)
MICRO_KERNEL(stmatrix_1, stmatrix_kernel<1, false>, in, out)
MICRO_KERNEL(stmatrix_2, stmatrix_kernel<2, false>, in, out)
MICRO_KERNEL(stmatrix_4, stmatrix_kernel<4, false>, in, out)
MICRO_KERNEL(stmatrix_trans_1, stmatrix_kernel<1, true>, in, out)
MICRO_KERNEL(stmatrix_trans_2, stmatrix_kernel<2, true>, in, out)
MICRO_KERNEL(stmatrix_trans_4, stmatrix_kernel<4, true>, in, out)
MICRO_KERNEL(hints, hints_kernel, in, out, 3 * kGroup)

// in: planes x rows x columns elements of element_bytes, contiguous (planes = 0: one matrix).
EXPORT tile_copy(const void* in, void* out, int element_bytes, int columns, int rows, int planes, int column, int row,
                 int plane) {
  ptx::TensorMap map;
  const std::int64_t row_bytes = std::int64_t{columns} * element_bytes;
  const int error = cuda::make_tensor_map(&map, {.base = in,
                                                 .element_bytes = element_bytes,
                                                 .columns = columns,
                                                 .rows = rows,
                                                 .row_bytes = row_bytes,
                                                 .box_rows = kTileBytes / 128,
                                                 .planes = planes,
                                                 .plane_bytes = row_bytes * rows});
  if (error != 0) return error;
  return cuda::launch({.grid = 1, .block = kWarp, .shared_bytes = kSharedBytes}, tile_copy_kernel, map,
                      Tile{column, row, planes == 0 ? -1 : plane}, static_cast<uint4*>(out));
}

// Majors: 0 K-major, 1 MN-major.
EXPORT wgmma_bf16(const void* in, void* out, int columns, int major_a, int major_b) {
  using ptx::Major;
  if (major_a == 0 && major_b == 0) return run_wgmma<__nv_bfloat16, Major::kK, Major::kK>(columns, in, out);
  if (major_a == 0) return run_wgmma<__nv_bfloat16, Major::kK, Major::kMN>(columns, in, out);
  if (major_b == 0) return run_wgmma<__nv_bfloat16, Major::kMN, Major::kK>(columns, in, out);
  return run_wgmma<__nv_bfloat16, Major::kMN, Major::kMN>(columns, in, out);
}
EXPORT wgmma_f16(const void* in, void* out, int columns) {
  return run_wgmma<__half, ptx::Major::kK, ptx::Major::kMN>(columns, in, out);
}
EXPORT wgmma_registers_bf16(const void* in, void* out, int columns, int major_b) {
  return major_b == 0 ? run_wgmma_registers<__nv_bfloat16, ptx::Major::kK>(columns, in, out)
                      : run_wgmma_registers<__nv_bfloat16, ptx::Major::kMN>(columns, in, out);
}
EXPORT wgmma_registers_f16(const void* in, void* out, int columns) {
  return run_wgmma_registers<__half, ptx::Major::kMN>(columns, in, out);
}

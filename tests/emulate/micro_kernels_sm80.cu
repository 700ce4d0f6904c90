// One small kernel per PTX wrapper of sm_80 and per warp intrinsic: reads a buffer, writes a buffer. Run in the
// emulator against the PTX manual's formulas (test_micro_kernels.py) and on a GPU against the emulator, bit for bit.
#include "cuda/launch.h"
#include "cuda/ptx_sm80.h"

namespace {

using namespace llada;

constexpr int kWarp = 32;
constexpr unsigned kAll = 0xffffffffu;

// in: 32 x kBytes; lane l copies its first l % (kBytes + 1) bytes. out: 32 x kBytes.
template <int kBytes>
__global__ void cp_async_kernel(const unsigned char* in, unsigned char* out) {
  LLADA_DYNAMIC_SHARED(unsigned char, shared);
  const int lane = threadIdx.x;
  ptx::cp_async<kBytes>(shared + lane * kBytes, in + lane * kBytes, lane % (kBytes + 1));
  ptx::cp_async_commit_group();
  ptx::cp_async_wait_group<0>();
  __syncthreads();
  for (int i = 0; i < kBytes; ++i) out[i * kWarp + lane] = shared[i * kWarp + lane];
}

// Three groups of one 16-byte copy each, waited for one by one; the last by wait_all without a commit.
__global__ void cp_async_groups_kernel(const uint4* in, uint4* out) {
  LLADA_DYNAMIC_SHARED(uint4, shared);
  const int lane = threadIdx.x;
  for (int group = 0; group < 2; ++group) {
    ptx::cp_async<16>(shared + group * kWarp + lane, in + group * kWarp + lane);
    ptx::cp_async_commit_group();
  }
  ptx::cp_async<16>(shared + 2 * kWarp + lane, in + 2 * kWarp + lane);
  ptx::cp_async_wait_group<1>();
  out[lane] = shared[lane];
  ptx::cp_async_wait_group<0>();
  out[kWarp + lane] = shared[kWarp + lane];
  ptx::cp_async_wait_all();
  out[2 * kWarp + lane] = shared[2 * kWarp + lane];
}

// in: 32 rows of 16 bytes; lane l gives the address of row (5 l + 3) % 32. out: 32 x kMatrices registers.
template <int kMatrices, bool kTransposed>
__global__ void ldmatrix_kernel(const uint4* in, std::uint32_t* out) {
  LLADA_DYNAMIC_SHARED(uint4, shared);
  const int lane = threadIdx.x;
  shared[lane] = in[lane];
  __syncwarp();
  std::uint32_t registers[kMatrices];
  const uint4* row = shared + (5 * lane + 3) % kWarp;
  if constexpr (kTransposed) {
    ptx::ldmatrix_trans(registers, row);
  } else {
    ptx::ldmatrix(registers, row);
  }
  for (int i = 0; i < kMatrices; ++i) out[lane * kMatrices + i] = registers[i];
}

// in: per lane 4 registers of a, 2 of b, 4 floats of d. out: 4 floats per lane.
template <class Element>
__global__ void mma_kernel(const std::uint32_t* in, float* out) {
  const int lane = threadIdx.x;
  const std::uint32_t* own = in + lane * 10;
  const std::uint32_t a[4] = {own[0], own[1], own[2], own[3]};
  float d[4];
  for (int i = 0; i < 4; ++i) d[i] = __uint_as_float(own[6 + i]);
  ptx::mma_m16n8k16<Element>(d, a, own[4], own[5]);
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = d[i];
}

// Two warps; the second hands 32 words to the first through named barrier 1 and takes them back through barrier 2.
__global__ void named_barrier_kernel(const unsigned* in, unsigned* out) {
  LLADA_DYNAMIC_SHARED(unsigned, shared);
  const int lane = threadIdx.x % kWarp;
  if (threadIdx.x >= kWarp) {
    shared[lane] = in[lane];
    ptx::barrier_arrive(1, 2 * kWarp);
    ptx::barrier_sync(2, 2 * kWarp);
    out[kWarp + lane] = shared[kWarp + lane];
  } else {
    ptx::barrier_sync(1, 2 * kWarp);
    out[lane] = shared[kWarp - 1 - lane];
    shared[kWarp + lane] = shared[lane] + 1;
    ptx::barrier_arrive(2, 2 * kWarp);
  }
}

// Two blocks. out: 32 words, a flag and a counter, the latter two zero at the start. Block 1 writes, releases the flag;
// block 0 waits for it and adds what it reads.
__global__ void release_acquire_kernel(const unsigned* in, unsigned* out) {
  const int lane = threadIdx.x;
  unsigned* flag = out + kWarp;
  unsigned* counter = flag + 1;
  if (blockIdx.x == 1) {
    out[lane] = in[lane];
    __syncwarp();
    if (lane == 0) ptx::store_release(flag, 1);
  } else {
    while (ptx::load_acquire(flag) == 0) __nanosleep(32);
    out[lane] += 1;
    ptx::atomic_add_acquire_release(counter, in[lane]);
  }
}

__global__ void load_streaming_kernel(const uint4* in, uint4* out) {
  out[threadIdx.x] = ptx::load_streaming(in + threadIdx.x);
}

// out: per lane the results, in the order written here, for in[lane].
constexpr int kWarpResults = 14;
__global__ void warp_kernel(const unsigned* in, unsigned* out) {
  const int lane = threadIdx.x;
  const unsigned value = in[lane];
  const unsigned results[kWarpResults] = {
      __shfl_sync(kAll, value, lane * 3 + 1),
      __shfl_sync(kAll, value, lane + 5, 8),
      __shfl_up_sync(kAll, value, 3),
      __shfl_up_sync(kAll, value, 2, 16),
      __shfl_down_sync(kAll, value, 7),
      __shfl_xor_sync(kAll, value, 9),
      __shfl_xor_sync(kAll, value, 5, 8),
      __ballot_sync(kAll, value & 1),
      __match_any_sync(kAll, value & 3),
      static_cast<unsigned>(__reduce_add_sync(kAll, static_cast<int>(value))),
      static_cast<unsigned>(__reduce_min_sync(kAll, static_cast<int>(value))),
      __reduce_max_sync(kAll, value),
      __reduce_or_sync(kAll, value),
      static_cast<unsigned>(__any_sync(kAll, value == in[7]) * 2 + __all_sync(kAll, value < 0x80000000u)),
  };
  for (int i = 0; i < kWarpResults; ++i) out[lane * kWarpResults + i] = results[i];
}

// 96 threads; out: count, and, or of in[i] & 1 and in[i] < 1000, per thread.
__global__ void block_vote_kernel(const unsigned* in, int* out) {
  const unsigned value = in[threadIdx.x];
  out[threadIdx.x * 3] = __syncthreads_count(value & 1);
  out[threadIdx.x * 3 + 1] = __syncthreads_and(value < 1000) != 0;
  out[threadIdx.x * 3 + 2] = __syncthreads_or(value == 1000) != 0;
}

template <class In, class Out>
int run(void (*kernel)(const In*, Out*), const void* in, void* out, unsigned threads = kWarp, unsigned blocks = 1) {
  constexpr std::size_t kSharedBytes = 2048;
  return cuda::launch({.grid = blocks, .block = threads, .shared_bytes = kSharedBytes}, kernel,
                      static_cast<const In*>(in), static_cast<Out*>(out));
}

}  // namespace

#define MICRO_KERNEL(name, ...) \
  extern "C" __attribute__((visibility("default"))) int name(const void* in, void* out) { return run(__VA_ARGS__); }

MICRO_KERNEL(cp_async_4, cp_async_kernel<4>, in, out)
MICRO_KERNEL(cp_async_8, cp_async_kernel<8>, in, out)
MICRO_KERNEL(cp_async_16, cp_async_kernel<16>, in, out)
MICRO_KERNEL(cp_async_groups, cp_async_groups_kernel, in, out)
MICRO_KERNEL(ldmatrix_1, ldmatrix_kernel<1, false>, in, out)
MICRO_KERNEL(ldmatrix_2, ldmatrix_kernel<2, false>, in, out)
MICRO_KERNEL(ldmatrix_4, ldmatrix_kernel<4, false>, in, out)
MICRO_KERNEL(ldmatrix_trans_1, ldmatrix_kernel<1, true>, in, out)
MICRO_KERNEL(ldmatrix_trans_2, ldmatrix_kernel<2, true>, in, out)
MICRO_KERNEL(ldmatrix_trans_4, ldmatrix_kernel<4, true>, in, out)
MICRO_KERNEL(mma_bf16, mma_kernel<__nv_bfloat16>, in, out)
MICRO_KERNEL(mma_f16, mma_kernel<__half>, in, out)
MICRO_KERNEL(named_barrier, named_barrier_kernel, in, out, 2 * kWarp)
MICRO_KERNEL(release_acquire, release_acquire_kernel, in, out, kWarp, 2)
MICRO_KERNEL(load_streaming, load_streaming_kernel, in, out)
MICRO_KERNEL(warp_intrinsics, warp_kernel, in, out)
MICRO_KERNEL(block_vote, block_vote_kernel, in, out, 3 * kWarp)

// Kernels of one warp or two that break one rule of the machine each.
#include <cstring>

#include "cuda/launch.h"
#include "cuda/ptx_sm90.h"
#include "tests/emulate/subjects.h"

namespace subjects {
namespace {

namespace ptx = llada::ptx;

constexpr unsigned kAll = 0xffffffffu;

__global__ void divergent_barrier() {
  if (threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void exited_thread_barrier() {
  if (threadIdx.x == 5) return;
  __syncthreads();
}

__global__ void deadlock() {
  if (threadIdx.x < 32) {
    ptx::barrier_sync(1, 64);
  } else {
    ptx::barrier_sync(2, 64);
  }
}

__global__ void divergent_shuffle() {
  if (threadIdx.x < 16) {
    __shfl_sync(kAll, 1, 0);
  } else {
    __shfl_xor_sync(kAll, 1, 1);
  }
}

__global__ void lane_outside_mask() { __ballot_sync(0xffffu, 1); }

__global__ void over_arrival() {
  LLADA_SHARED_ARRAY(std::uint64_t, barrier, 1);
  if (threadIdx.x != 0) return;
  ptx::mbarrier_init(barrier, 1);
  ptx::mbarrier_expect_tx(barrier, 16);
  ptx::mbarrier_arrive(barrier);
  ptx::mbarrier_arrive(barrier);
}

__global__ void use_before_init() {
  LLADA_SHARED_ARRAY(std::uint64_t, barrier, 1);
  ptx::mbarrier_arrive(barrier);
}

__global__ void too_few_bytes() {
  LLADA_DYNAMIC_SHARED(char, shared);
  LLADA_SHARED_ARRAY(std::uint64_t, barrier, 1);
  static const uint4 source[4] = {};
  if (threadIdx.x != 0) return;
  ptx::mbarrier_init(barrier, 1);
  ptx::mbarrier_arrive_expect_tx(barrier, 128);
  ptx::cp_async_bulk(shared, source, 64, barrier);
  ptx::mbarrier_wait(barrier, 0);
}

__global__ void copy_in_flight_at_exit() {
  LLADA_DYNAMIC_SHARED(char, shared);
  static const uint4 source = {};
  ptx::cp_async<16>(shared, &source);
}

__global__ void bulk_copy_in_flight_at_exit() {
  LLADA_DYNAMIC_SHARED(char, shared);
  LLADA_SHARED_ARRAY(std::uint64_t, barrier, 1);
  static const uint4 source = {};
  if (threadIdx.x != 0) return;
  ptx::mbarrier_init(barrier, 1);
  ptx::mbarrier_arrive_expect_tx(barrier, 16);
  ptx::cp_async_bulk(shared, &source, 16, barrier);
}

__global__ void misaligned_copy() {
  LLADA_DYNAMIC_SHARED(char, shared);
  static const uint4 source[2] = {};
  ptx::cp_async<16>(shared + 8, source);
  ptx::cp_async_wait_all();
}

__global__ void waiting_for_nobody(unsigned* flag) {
  while (ptx::load_acquire(flag) == 0) __nanosleep(100);
}

__global__ void half_a_warpgroup() {
  LLADA_DYNAMIC_SHARED(char, shared);
  float d[4];
  const std::uint64_t tile = ptx::tile_descriptor(ptx::shared_address(shared));
  ptx::wgmma<__nv_bfloat16, 8>(d, tile, tile, false);
  ptx::wgmma_commit_group();
  ptx::wgmma_wait_group<0>();
}

struct Rule {
  const char* name;
  void (*kernel)();
};
constexpr Rule kRules[] = {
    {"divergent_barrier", divergent_barrier},
    {"exited_thread_barrier", exited_thread_barrier},
    {"deadlock", deadlock},
    {"divergent_shuffle", divergent_shuffle},
    {"lane_outside_mask", lane_outside_mask},
    {"over_arrival", over_arrival},
    {"use_before_init", use_before_init},
    {"too_few_bytes", too_few_bytes},
    {"copy_in_flight_at_exit", copy_in_flight_at_exit},
    {"bulk_copy_in_flight_at_exit", bulk_copy_in_flight_at_exit},
    {"misaligned_copy", misaligned_copy},
    {"half_a_warpgroup", half_a_warpgroup},
};

}  // namespace

int broken_rule(const char* name) {
  constexpr std::size_t kSharedBytes = 16 << 10;
  const llada::cuda::LaunchConfig config{.grid = 1, .block = 64, .shared_bytes = kSharedBytes};
  for (const Rule& rule : kRules) {
    if (std::strcmp(rule.name, name) == 0) return llada::cuda::launch(config, rule.kernel);
  }
  unsigned flag = 0;
  if (std::strcmp(name, "waiting_for_nobody") == 0) return llada::cuda::launch(config, waiting_for_nobody, &flag);
  return cudaErrorInvalidValue;
}

}  // namespace subjects

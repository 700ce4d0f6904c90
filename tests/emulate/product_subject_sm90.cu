// Product by wgmma: 64 rows of c per block, by tiles of 32 columns, depth in steps of 64. A producer warp fills three
// stages for tile after tile, a by TMA and b by cp.async in the same swizzle; two consumer warpgroups take the tiles in
// turn, multiply and free the stages. mbarriers say full and empty, and whose turn it is.
#include "cuda/launch.h"
#include "cuda/ptx_sm90.h"
#include "cuda/tensor_map.h"
#include "tests/emulate/subjects.h"

namespace subjects {
namespace {

namespace ptx = llada::ptx;

constexpr int kGroup = 128, kConsumers = 2, kThreads = kConsumers * kGroup + 32;
constexpr int kRows = 64, kColumns = 32, kDepth = 64, kStages = 3;
constexpr int kLeftBytes = kRows * 128, kStageBytes = kLeftBytes + kColumns * 128;

struct Barriers {
  std::uint64_t full[kStages], empty[kStages], turns[kConsumers];
};

__device__ __forceinline__ int tiles(const Product& p) { return (p.columns + kColumns - 1) / kColumns; }

template <Fault kFault>
__device__ __forceinline__ void produce(const ptx::TensorMap& map, const Product& p, char* shared, Barriers& barriers) {
  const int lane = threadIdx.x % 32, steps = p.depth / kDepth, row0 = blockIdx.x * kRows;
  for (int at = 0; at < tiles(p) * steps; ++at) {
    const int s = at % kStages, step = at % steps, column0 = at / steps * kColumns;
    std::uint64_t* full = barriers.full + s;
    ptx::mbarrier_wait(barriers.empty + s, (at / kStages + 1) & 1);
    char* stage = shared + s * kStageBytes;
    if (lane == 0) {
      ptx::mbarrier_arrive_expect_tx(full, kFault == Fault::kWrongBytes ? kLeftBytes - 16 : kLeftBytes);
      ptx::tma_load_2d(stage, &map, step * kDepth, row0, full, ptx::CacheHint::kEvictFirst);
    }
    for (int i = lane; i < kColumns * 8; i += 32) {
      const int column = i / 8, chunk = i % 8;
      const bool inside = column0 + column < p.columns;
      const std::uint16_t* source =
          p.b + static_cast<std::size_t>(inside ? column0 + column : 0) * p.depth + step * kDepth + chunk * 8;
      const int place = kFault == Fault::kWrongSwizzle ? chunk : chunk ^ (column % 8);
      ptx::cp_async<16>(stage + kLeftBytes + column * 128 + place * 16, source, inside ? 16 : 0);
    }
    if constexpr (kFault == Fault::kUnwaitedCopy) {
      ptx::mbarrier_arrive(full);
    } else {
      ptx::cp_async_wait_all();
      ptx::fence_proxy_async();
      ptx::mbarrier_arrive(full);
    }
  }
  ptx::cp_async_wait_all();
}

template <Fault kFault>
__device__ __forceinline__ void consume_tile(const Product& p, char* shared, Barriers& barriers, int tile) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x % kGroup / 32, steps = p.depth / kDepth;
  float sums[kColumns / 2];
  if (kFault != Fault::kMissingTurn && tile > 0) {
    ptx::mbarrier_wait(barriers.turns + tile % kConsumers, (tile - 1) / kConsumers & 1);
  }
  for (int step = 0; step < steps; ++step) {
    const int at = (kFault == Fault::kWrongStage ? tile / kConsumers : tile) * steps + step, s = at % kStages;
    ptx::mbarrier_wait(barriers.full + s, at / kStages & 1);
    const std::uint32_t a = ptx::shared_address(shared + s * kStageBytes), b = a + kLeftBytes;
    ptx::wgmma_fence();
    for (int k = 0; k < kDepth / 16; ++k) {
      constexpr int kAdvance = kFault == Fault::kWrongDescriptor ? 16 : 32;
      ptx::wgmma<__nv_bfloat16, kColumns>(sums, ptx::tile_descriptor(a + k * kAdvance),
                                          ptx::tile_descriptor(b + k * 32), step + k != 0);
    }
    ptx::wgmma_commit_group();
    if constexpr (kFault == Fault::kFreedTooEarly) {
      if (lane == 0) ptx::mbarrier_arrive(barriers.empty + s);
    }
    if constexpr (kFault != Fault::kUnwaitedProduct) ptx::wgmma_wait_group<0>();
    if constexpr (kFault != Fault::kFreedTooEarly) {
      if (lane == 0) ptx::mbarrier_arrive(barriers.empty + s);
    }
  }
  if (lane == 0) ptx::mbarrier_arrive(barriers.turns + (tile + 1) % kConsumers);
  for (int i = 0; i < kColumns / 2; ++i) {
    const int row = blockIdx.x * kRows + warp * 16 + lane / 4 + i / 2 % 2 * 8;
    const int column = tile * kColumns + i / 4 * 8 + lane % 4 * 2 + i % 2;
    if (row < p.rows && column < p.columns) p.c[static_cast<std::size_t>(row) * p.columns + column] = sums[i];
  }
  ptx::wgmma_wait_group<0>();
}

template <Fault kFault>
__global__ void __launch_bounds__(kThreads) product_kernel(const __grid_constant__ ptx::TensorMap map, Product p) {
  LLADA_DYNAMIC_SHARED(char, shared);
  LLADA_SHARED_ARRAY(Barriers, barriers, 1);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      ptx::mbarrier_init(barriers->full + s, 1 + 32);
      ptx::mbarrier_init(barriers->empty + s, kGroup / 32);
    }
    for (std::uint64_t& turn : barriers->turns) ptx::mbarrier_init(&turn, kGroup / 32);
    ptx::fence_mbarrier_init();
  }
  if constexpr (kFault != Fault::kMissingBarrier) __syncthreads();
  if (threadIdx.x >= kConsumers * kGroup) {
    produce<kFault>(map, p, shared, *barriers);
    return;
  }
  for (int tile = threadIdx.x / kGroup; tile < tiles(p); tile += kConsumers) {
    consume_tile<kFault>(p, shared, *barriers, tile);
  }
}

template <Fault kFault>
int run(const Product& p) {
  ptx::TensorMap map;
  const int error = llada::cuda::make_tensor_map(&map, {.base = p.a,
                                                        .element_bytes = 2,
                                                        .columns = p.depth,
                                                        .rows = p.rows,
                                                        .row_bytes = std::int64_t{p.depth} * 2,
                                                        .box_rows = kRows});
  if (error != 0) return error;
  const dim3 grid((p.rows + kRows - 1) / kRows);
  return llada::cuda::launch({.grid = grid, .block = kThreads, .shared_bytes = kStages * kStageBytes},
                             product_kernel<kFault>, map, p);
}

}  // namespace

int product_sm90(Fault fault, const Product& product) {
  switch (fault) {
    case Fault::kMissingBarrier:
      return run<Fault::kMissingBarrier>(product);
    case Fault::kUnwaitedCopy:
      return run<Fault::kUnwaitedCopy>(product);
    case Fault::kWrongSwizzle:
      return run<Fault::kWrongSwizzle>(product);
    case Fault::kWrongBytes:
      return run<Fault::kWrongBytes>(product);
    case Fault::kWrongDescriptor:
      return run<Fault::kWrongDescriptor>(product);
    case Fault::kFreedTooEarly:
      return run<Fault::kFreedTooEarly>(product);
    case Fault::kUnwaitedProduct:
      return run<Fault::kUnwaitedProduct>(product);
    case Fault::kMissingTurn:
      return run<Fault::kMissingTurn>(product);
    case Fault::kWrongStage:
      return run<Fault::kWrongStage>(product);
    default:
      return run<Fault::kNone>(product);
  }
}

}  // namespace subjects

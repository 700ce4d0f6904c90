// The product of product_sm80.h on Hopper: blocks that stay, one per multiprocessor, take tile after tile; the weight
// is wgmma's M and streams through TMA, the rows are its N, so that few of them waste little and none is padded in
// memory.
//
//   tile:      kBoxes x kBoxRows weight rows x up to kRows rows of one group, multiplied as 8, 16, 32, 64, 96, 128 or
//              192 of them. SwiGLU: 64 gate rows and the 64 up rows of the same columns, so that both of an output lie
//              in one thread.
//   stage:     128 bytes of depth of each row, kStages deep, swizzled by TMA's rule
//   producers: warpgroup 0. Its first thread starts the weight's tile copies; all of it gathers the rows by cp.async
//              and hands a stage over when they have come, kLag stages behind those it starts. They run ahead from tile
//              to tile, whichever consumer's it is.
//   consumers: kGroups warpgroups that take the block's tiles in turn. In its turn one waits for `full`, multiplies and
//              frees the stage (`empty`) once the next product is under way; with its last product issued it passes
//              the turn on, and its sums leave under the next tile's products.
//
// Many rows: threads of two consumers have 224 registers each, so at most 192 sums. By the data sheet, for 64 of depth,
// in cycles of the tensor cores (2048 multiply-adds each) and of shared memory (128 bytes each; a wgmma reads its 64
// weight rows and all of the rows):
//
//   a consumer's tile    products   shared: written + read   L2, bytes a cycle   stages in 227 KB
//   128 x 192                 768   320 + 512   108 %        53                  5 of 40 KB
//   128 x 128                 512   256 + 384   125 %        64                  6 of 32 KB
//   64 x 256                  512   320 + 320   125 %        80                  5 of 40 KB
//   both on 256 x 128        1024   384 + 768   112 %        48                  4 of 48 KB, nothing under its epilogue
//
// An output is summed in one accumulator over rising depth, 16 at a time, always with the weight as M: the bits depend
// on the row and its weight alone, not on the tile's shape or its other rows. They may differ from those of
// product_sm80.h, which serves here, too, what TMA cannot load (can_stream).
#pragma once

#include <cstdint>

#include "cuda/dispatch.h"
#include "cuda/launch.h"
#include "cuda/pack.h"
#include "cuda/ptx_sm90.h"
#include "cuda/tensor_map.h"
#include "grouped_gemm/product_int8_sm90.h"
#include "grouped_gemm/product_select.h"
#include "grouped_gemm/product_stages_sm90.h"
#include "grouped_gemm/product_store_sm90.h"
#include "grouped_gemm/product_tiles.h"
#include "permute/expert_sort_sm80.h"
#include "permute/permute_cuda.h"

namespace llada::cuda {

template <class Shape>
inline constexpr int kStagingBytes = Shape::kGroups * kGroupWarps * kWarpStagingBytes;

template <class Shape, bool kPaired>
inline constexpr int kStreamColumns = Shape::kWeightRows / (kPaired ? 2 : 1);

// Rows that a tile's product has: the smallest N of these that holds them.
inline constexpr int kLeastRows = 8;
__host__ __device__ constexpr int more_rows(int rows) {
  return rows < 64 ? 2 * rows : rows < 128 ? rows + 32 : rows + 64;
}
__device__ __forceinline__ int multiplied_rows(int count) {
  int rows = kLeastRows;
  while (rows < count) rows = more_rows(rows);
  return rows;
}

template <class Shape, bool kPaired>
__device__ __forceinline__ void load_weights(const ptx::TensorMap& map, const ProductParams& params, char* stage,
                                             std::uint64_t* full, const ProductTile& tile, int depth) {
  constexpr auto kHint = Shape::kGroups == 1 ? ptx::CacheHint::kEvictFirst : ptx::CacheHint::kNormal;
  ptx::mbarrier_arrive_expect_tx(full, Shape::kWeightRows * kDepthBytes);
#pragma unroll
  for (int box = 0; box < Shape::kBoxes; ++box) {
    const std::int64_t row = tile.first_column + box * (kPaired ? params.columns : Shape::kBoxRows);
    ptx::tma_load_3d(stage + box * kSlotBytes, &map, depth, static_cast<int>(row), tile.rows.group, full, kHint);
  }
}

// Warpgroup 0.
template <class Element, class Weight, class Shape, bool kPaired>
__device__ __forceinline__ void produce(const ptx::TensorMap& map, const ProductParams& params, const Stages& stages) {
  constexpr int kElements = kElementsPer16Bytes<Element>, kDepth = kDepthBytes / sizeof(Weight);
  static_assert(Shape::kRowTiles * sizeof(Weight) == sizeof(Element));
  constexpr int kThreadRows = kGroupThreads / kChunks, kCopies = Shape::kRows / kThreadRows;
  const int own_row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
  const auto* x = static_cast<const Element*>(params.x);
  const auto steps = static_cast<int>((params.depth + kDepth - 1) / kDepth);
  Ring<Shape::kStages> ring, behind;
  int started = 0;
  const auto hand_over = [&] {
    ptx::fence_proxy_async();
    __syncwarp();
    if (threadIdx.x % kWarpLanes == 0) ptx::mbarrier_arrive(stages.full + behind.stage());
    behind.advance();
  };
  for (unsigned t = blockIdx.x;; t += gridDim.x) {
    const ProductTile tile = place_tile<Shape::kRows, kStreamColumns<Shape, kPaired>>(params, t);
    if (!tile.exists()) break;
    if (tile.rows.group == params.groups) continue;
    const int rows = multiplied_rows(tile.rows.count);
    std::int32_t sources[kCopies];
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int row = own_row + i * kThreadRows;
      sources[i] = -1;
      if (row >= tile.rows.count) continue;
      const std::int32_t r = tile.rows.first + row;
      sources[i] = params.x_order != nullptr ? params.x_order[r] / static_cast<std::int32_t>(params.slots) : r;
    }
    for (int step = 0; step < steps; ++step) {
      char* stage = stages.memory + ring.stage() * Shape::kStageBytes;
      ptx::mbarrier_wait(stages.empty + ring.stage(), ring.parity() ^ 1);
      if (threadIdx.x == 0) {
        load_weights<Shape, kPaired>(map, params, stage, stages.full + ring.stage(), tile, step * kDepth);
      }
#pragma unroll
      for (int part = 0; part < Shape::kRowTiles; ++part) {
        const std::int64_t first = static_cast<std::int64_t>(step) * kDepth + (part * kChunks + chunk) * kElements;
        const std::int64_t left = params.depth - first;
        const int valid = left >= kElements ? kElements : left > 0 ? static_cast<int>(left) : 0;
        char* to = stage + Shape::kWeightBytes + part * Shape::kRows * kDepthBytes;
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
          const int row = own_row + i * kThreadRows;
          if (row >= rows) continue;
          const int count = sources[i] >= 0 ? valid : 0;
          const Element* from = count > 0 ? x + sources[i] * params.x_stride + first : x;
          ptx::cp_async<kChunkBytes>(to + chunk_offset(row, chunk), from, count * static_cast<int>(sizeof(Element)));
        }
      }
      ptx::cp_async_commit_group();
      if (started == Shape::kLag) {
        ptx::cp_async_wait_group<Shape::kLag>();
        hand_over();
      } else {
        ++started;
      }
      ring.advance();
    }
  }
  ptx::cp_async_wait_all();
  for (; started > 0; --started) hand_over();
}

// A consumer group's sums, in wgmma's layout: sums[box] of weight rows box * 64 … and all the tile's rows.
template <class Element, class Shape, int kTokens>
__device__ __forceinline__ void sum_stages(StreamSums<Shape, kTokens>& sums, const Stages& stages,
                                           Ring<Shape::kStages>& ring, unsigned turn, int steps) {
  constexpr int kStep = 16 * sizeof(Element);  // wgmma's k
  take_turn<Shape::kGroups>(stages, turn);
  for (int step = 0; step < steps; ++step) {
    ptx::mbarrier_wait(stages.full + ring.stage(), ring.parity());
    const std::uint32_t stage = ptx::shared_address(stages.memory + ring.stage() * Shape::kStageBytes);
    const std::uint32_t rows = stage + Shape::kWeightBytes;
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kDepthBytes; k += kStep) {
#pragma unroll
      for (int box = 0; box < Shape::kBoxes; ++box) {
        ptx::wgmma<Element, kTokens>(sums[box], ptx::tile_descriptor(stage + box * kSlotBytes + k),
                                     ptx::tile_descriptor(rows + k), true);
      }
    }
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<1>();
    if (step > 0) free_stage(stages, ring.previous_stage());
    ring.advance();
  }
  pass_turn<Shape::kGroups>(stages, turn);
  ptx::wgmma_wait_group<0>();
  if (steps > 0) free_stage(stages, ring.previous_stage());
}

template <class Element, class Weight, class Shape, int kTokens, class Epilogue>
__device__ __forceinline__ void consume_tile(const ProductParams& params, const Epilogue& epilogue,
                                             const Stages& stages, Ring<Shape::kStages>& ring, unsigned turn,
                                             const ProductTile& tile, int steps, char* all_staging) {
  if constexpr (kTokens < Shape::kRows) {
    if (tile.rows.count > kTokens) {
      consume_tile<Element, Weight, Shape, more_rows(kTokens)>(params, epilogue, stages, ring, turn, tile, steps,
                                                               all_staging);
      return;
    }
  }
  using Output = typename Epilogue::Output;
  const int lane = threadIdx.x % kWarpLanes, warp_row = threadIdx.x % kGroupThreads / kWarpLanes * 16;
  StreamSums<Shape, kTokens> sums = {};
  if constexpr (sizeof(Weight) == 1) {
    sum_stages_int8<Element, Shape, kTokens>(sums, stages, ring, turn, steps);
  } else {
    sum_stages<Element, Shape, kTokens>(sums, stages, ring, turn, steps);
  }
  if (warp_row >= Shape::kBoxRows) return;
  char* staging = all_staging + (threadIdx.x / kWarpLanes - kGroupWarps) * kWarpStagingBytes;
  const WeightScales<Weight> scales(params, tile.rows.group, Epilogue::kPaired);
  const auto column_of = [&](std::int64_t first, int i) { return first + lane / 4 + i / 2 % 2 * 8; };
  if constexpr (Epilogue::kPaired) {
    static_assert(Shape::kBoxes == 2);
    const OutputRows<Output> out{params, tile.rows, tile.first_column + warp_row};
    store_columns<kTokens>(out, staging, [&](int i) {
      const std::int64_t column = column_of(out.column, i);
      return epilogue(scales.scaled(sums[0][i], column), scales.scaled(sums[1][i], column + params.columns));
    });
  } else {
#pragma unroll
    for (int box = 0; box < Shape::kBoxes; ++box) {
      const OutputRows<Output> out{params, tile.rows, tile.first_column + box * Shape::kBoxRows + warp_row};
      store_columns<kTokens>(out, staging, [&](int i) {
        const std::int64_t column = column_of(out.column, i);
        return epilogue(scales.scaled(sums[box][i], column), column);
      });
    }
  }
}

// The order of few rows is sorted by each block for itself, which costs less than a launch; block 0 keeps it.
inline constexpr std::int64_t kMaxOwnSort = 1024, kMaxOwnSortExperts = 256;

inline bool can_sort(const ExpertOrderParams& sort) {
  return sort.assignments <= kMaxOwnSort && sort.num_experts <= kMaxOwnSortExperts;
}

inline std::int64_t own_sort_bytes(const ExpertOrderParams& sort) {
  return (sort.assignments + sort.num_experts + 1 + sort_counters(sort.num_experts)) * sizeof(std::int32_t);
}

// All threads of the block call it; params.offsets and x_order then lie in `memory`, of own_sort_bytes.
__device__ __forceinline__ void sort_rows(ExpertOrderParams sort, std::int32_t* memory, ProductParams& params) {
  std::int32_t *kept_order = sort.order, *kept_offsets = sort.offsets;
  sort.order = memory;
  sort.offsets = memory + sort.assignments;
  place_chunk(sort, sort.offsets + sort.num_experts + 1, 0, 1);
  __syncthreads();
  params.offsets = sort.offsets;
  params.x_order = sort.order;
  if (blockIdx.x != 0) return;
  for (int i = threadIdx.x; i < sort.assignments; i += kSortThreads) kept_order[i] = sort.order[i];
  for (int i = threadIdx.x; i <= sort.num_experts; i += kSortThreads) kept_offsets[i] = sort.offsets[i];
}

// epilogue: see product_epilogues.h. kSorts: offsets and x_order are made here, from `sort`.
template <class Element, class Weight, class Shape, class Epilogue, bool kSorts>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    stream_kernel(const __grid_constant__ ptx::TensorMap map, ProductParams params, ExpertOrderParams sort,
                  Epilogue epilogue) {
  constexpr bool kPaired = Epilogue::kPaired;
  LLADA_DYNAMIC_SHARED(char, shared);
  LLADA_SHARED_ARRAY(std::uint64_t, full, Shape::kStages);
  LLADA_SHARED_ARRAY(std::uint64_t, empty, Shape::kStages);
  LLADA_SHARED_ARRAY(std::uint64_t, turns, Shape::kGroups);
  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&map);
    for (int s = 0; s < Shape::kStages; ++s) {
      ptx::mbarrier_init(full + s, kGroupWarps + 1);  // of the rows, and of the weight
      ptx::mbarrier_init(empty + s, kGroupWarps);
    }
    for (int group = 0; group < Shape::kGroups; ++group) ptx::mbarrier_init(turns + group, kGroupWarps);
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  ptx::wait_for_previous_kernel();
  ptx::launch_next_kernel();
  char* behind_stages = shared + Shape::kStages * Shape::kStageBytes;
  if constexpr (kSorts) {
    static_assert(Shape::kThreads == kSortThreads);
    sort_rows(sort, reinterpret_cast<std::int32_t*>(behind_stages + kStagingBytes<Shape>), params);
  }
  const Stages stages{shared, full, empty, turns};
  if (threadIdx.x < kGroupThreads) {
    if constexpr (Shape::kGroups > 1) ptx::set_max_registers_down<56>();
    produce<Element, Weight, Shape, kPaired>(map, params, stages);
    return;
  }
  if constexpr (Shape::kGroups > 1) ptx::set_max_registers_up<224>();
  constexpr int kDepth = kDepthBytes / sizeof(Weight);
  const auto steps = static_cast<int>((params.depth + kDepth - 1) / kDepth);
  const int group = threadIdx.x / kGroupThreads - 1;
  Ring<Shape::kStages> ring;
  ring.advance(group * steps);
  for (unsigned turn = group;; turn += Shape::kGroups) {
    const ProductTile tile =
        place_tile<Shape::kRows, kStreamColumns<Shape, kPaired>>(params, blockIdx.x + turn * gridDim.x);
    if (!tile.exists()) break;
    const bool of_group = tile.rows.group != params.groups;  // the others come last
    consume_tile<Element, Weight, Shape, kLeastRows>(params, epilogue, stages, ring, turn, tile, of_group ? steps : 0,
                                                     behind_stages);
    ring.advance((Shape::kGroups - 1) * steps);
  }
}

template <class Element, class Weight, class Shape, bool kSorts = false, class Epilogue>
int launch_stream(const ProductParams& params, const Epilogue& epilogue, int blocks,
                  const ExpertOrderParams& sort = {}) {
  constexpr int kBytes = sizeof(Weight);
  const std::int64_t tiles = count_tiles<Shape::kRows, kStreamColumns<Shape, Epilogue::kPaired>>(params);
  if (tiles > kMaxTiles) return cudaErrorInvalidConfiguration;
  const std::int64_t row_bytes = params.weight_stride * kBytes;
  ptx::TensorMap map;
  const int error =
      make_tensor_map(&map, {.base = params.weight,
                             .element_bytes = kBytes,
                             .columns = stored_depth<Weight>(params.depth),
                             .rows = params.columns * (Epilogue::kPaired ? 2 : 1),
                             .row_bytes = row_bytes,
                             .box_rows = Shape::kBoxRows,
                             .planes = params.groups,
                             .plane_bytes = params.groups > 1 ? params.group_stride * kBytes : row_bytes});
  if (error != 0) return error;
  const std::int64_t shared_bytes =
      Shape::kStages * Shape::kStageBytes + kStagingBytes<Shape> + (kSorts ? own_sort_bytes(sort) : 0);
  const LaunchConfig config{dim3(static_cast<unsigned>(tiles < blocks ? tiles : blocks)), dim3(Shape::kThreads),
                            static_cast<std::size_t>(shared_bytes), params.stream, true};
  return launch(config, stream_kernel<Element, Weight, Shape, Epilogue, kSorts>, map, params, sort, epilogue);
}

// Whether TMA can load the weight, and cp.async the rows.
template <class Weight>
bool can_stream(const ProductParams& params) {
  if (params.dtype != DType::kBFloat16 && params.dtype != DType::kFloat16) return false;
  constexpr std::int64_t kRowBytes = 2, kBytes = sizeof(Weight);
  const bool one = params.groups == 1;
  return params.depth > 0 && aligned_rows(params.x, params.x_stride * kRowBytes) &&
         aligned_rows(params.weight, params.weight_stride * kBytes) && params.weight_stride >= params.depth &&
         (one || (params.group_stride > 0 && params.group_stride % params.weight_stride == 0));
}

// What can_stream admits; arguments as launch_product's.
template <bool kMayBeNarrow = false, class MakeEpilogue>
int launch_stream_product(const ProductParams& params, MakeEpilogue make_epilogue) {
  ProductTiles tiles = kTilesOfSm90;
  if (!kMayBeNarrow) tiles.narrow_rows = 0;
  ProductProblem problem{params.rows, params.columns, params.groups, 0};
  if (const int error = multiprocessors(&problem.multiprocessors)) return error;
  const int blocks = problem.multiprocessors;
  return dispatch_16_bit(params.dtype, [&](auto element) -> int {
    using Element = decltype(element);
    const auto epilogue = make_epilogue(element);
    if (decltype(epilogue)::kPaired) problem.columns = 2 * params.columns;
    const ProductShape shape = select_product(problem, tiles);
    if constexpr (kMayBeNarrow) {
      if (shape == ProductShape::kNarrow)
        return launch_stream<Element, Element, StreamNarrow>(params, epilogue, blocks);
    }
    if (shape == ProductShape::kManyRows)
      return launch_stream<Element, Element, StreamManyRows>(params, epilogue, blocks);
    return launch_stream<Element, Element, StreamFewRows>(params, epilogue, blocks);
  });
}

}  // namespace llada::cuda

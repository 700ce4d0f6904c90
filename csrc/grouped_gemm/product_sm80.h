// Rows grouped by expert times that expert's weight, y [rows, columns] = x [rows, depth] weight[group]^T, by tiles of
// columns (the product's M: 16 weight rows) and rows (its N: 8 tokens), so that few tokens waste little.
//
//   block:   128 weight rows (narrow tiles: 16) x Shape::kRows rows of one group; SwiGLU: 64 gate rows and the 64 up
//            rows of the same columns
//   warp:    kColumnFragments x 16 weight rows (adjacent, or gate and up: both of an output lie in one thread)
//            x kRows / kRowWarps rows
//   stage:   128 bytes of depth of each row, by cp.async, kStages deep; the 16-byte chunk c of row r lies at c ^ r % 8,
//            so that the eight rows of an ldmatrix lie in different banks
//   grid:    a block per tile, as many as any offsets could need; a block finds its group and rows in offsets itself
//   groups:  rows of no group are the last group, of zeros
//   order:   of rows given by token and slot: read where the token lies, written where the slot belongs
//
// An output is summed in one accumulator over rising depth, 16 at a time by mma.sync (fp32: 32 at a time, by fmaf),
// which neither the tile's shape nor its other rows change: the bits depend on the row and its weight alone.
#pragma once

#include <cstdint>

#include "cuda/dispatch.h"
#include "cuda/launch.h"
#include "cuda/pack.h"
#include "cuda/ptx_sm80.h"
#include "grouped_gemm/product_int8_sm80.h"
#include "grouped_gemm/product_select.h"
#include "grouped_gemm/product_tiles.h"

namespace llada::cuda {

template <int kRowsOfTile, int kRowWarpsOfTile, int kStagesOfTile, int kColumnWarpsOfTile = 4,
          int kColumnFragmentsOfWarp = 2, int kRowTilesOfStage = 1>
struct TileShape {
  static constexpr int kRows = kRowsOfTile, kRowWarps = kRowWarpsOfTile, kStages = kStagesOfTile;
  static constexpr int kColumnWarps = kColumnWarpsOfTile, kColumnFragments = kColumnFragmentsOfWarp;
  static constexpr int kWeightRows = kColumnWarps * kColumnFragments * 16;
  static constexpr int kThreads = kColumnWarps * kRowWarps * kWarpLanes;
  static constexpr int kFragments = kRows / kRowWarps / 8;  // of 8 rows, per warp
  static constexpr int kRowTiles = kRowTilesOfStage;        // 2: elements of rows are twice as wide as the weight's
  static constexpr int kStageBytes = (kWeightRows + kRowTiles * kRows) * kDepthBytes;
  using Sums = float[kColumnFragments][kFragments][4];
};
using FewRows = TileShape<32, 1, 4>;       // 80 KB: two blocks share an A100's multiprocessor
using ManyRows = TileShape<128, 2, 3>;     // 96 KB: what sm_86 and sm_89 have as well
using Narrow = TileShape<64, 4, 8, 1, 1>;  // 80 KB
inline constexpr ProductTiles kTilesOfSm80 = {FewRows::kRows, FewRows::kWeightRows, ManyRows::kRows,
                                              ManyRows::kWeightRows, Narrow::kRows};

// A thread's part in copying kTileRows rows into a stage: the same chunk of every (kThreads / kChunks)th row.
template <class Element, int kTileRows, int kThreads, bool kAligned>
class RowCopies {
 public:
  // row_of(r): where row r of the tile starts, or null for one of zeros.
  template <class RowOf>
  __device__ __forceinline__ explicit RowCopies(RowOf row_of) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) rows_[i] = row_of(row(i));
  }

  // Elements from `start` on, zeros from `depth` on. `base` is an aligned address.
  __device__ __forceinline__ void copy(char* stage, const Element* base, std::int64_t start, std::int64_t depth) const {
    constexpr int kElements = kElementsPer16Bytes<Element>;
    const int chunk = threadIdx.x % kChunks;
    const std::int64_t first = start + chunk * kElements, left = depth - first;
    const int valid = left >= kElements ? kElements : left > 0 ? static_cast<int>(left) : 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      char* to = stage + chunk_offset(row(i), chunk);
      const int count = rows_[i] != nullptr ? valid : 0;
      const Element* from = count > 0 ? rows_[i] + first : base;
      if constexpr (kAligned) {
        ptx::cp_async<kChunkBytes>(to, from, count * static_cast<int>(sizeof(Element)));
      } else {
        *reinterpret_cast<Vector<Element, kElements>*>(to) = load_pack<kElements>(from, count, false);
      }
    }
  }

 private:
  static constexpr int kCount = kTileRows * kChunks / kThreads;
  static_assert(kTileRows * kChunks % kThreads == 0 && kThreads % kChunks == 0);

  __device__ __forceinline__ static int row(int i) { return threadIdx.x / kChunks + i * (kThreads / kChunks); }

  const Element* rows_[kCount];
};

// A warp's product of kColumnFragments times 16 weight rows, which begin at tile rows columns[m], with kFragments times
// 8 rows. In the layout of mma's d, with g = lane / 4 and t = lane % 4 * 2: sums[m][n][i] is of weight row
// g + i / 2 * 8 and row t + i % 2 of the fragments.
template <class Element, class Shape>
__device__ __forceinline__ void multiply_stage(typename Shape::Sums& sums, const char* weights, const char* rows,
                                               const int (&columns)[Shape::kColumnFragments], int first_row) {
  static_assert(Shape::kFragments % 2 == 0);
  const int lane = threadIdx.x % kWarpLanes;
#pragma unroll
  for (int k = 0; k < kChunks; k += 2) {  // 16 elements are two chunks
    std::uint32_t left[Shape::kColumnFragments][4];
#pragma unroll
    for (int m = 0; m < Shape::kColumnFragments; ++m) {
      ptx::ldmatrix(left[m], weights + chunk_offset(columns[m] + lane % 16, k + lane / 16));
    }
#pragma unroll
    for (int n = 0; n < Shape::kFragments; n += 2) {
      std::uint32_t right[4];  // two fragments, of each the lower and the upper half of k
      const int row = first_row + n * 8 + lane % 8 + lane / 16 * 8;
      ptx::ldmatrix(right, rows + chunk_offset(row, k + lane / 8 % 2));
#pragma unroll
      for (int m = 0; m < Shape::kColumnFragments; ++m) {
        ptx::mma_m16n8k16<Element>(sums[m][n], left[m], right[0], right[1]);
        ptx::mma_m16n8k16<Element>(sums[m][n + 1], left[m], right[2], right[3]);
      }
    }
  }
}

__device__ __forceinline__ float4 chunk_of(const char* tile, int row, int chunk) {
  return *reinterpret_cast<const float4*>(tile + chunk_offset(row, chunk));
}

__device__ __forceinline__ void add_products(float& sum, const float4& a, const float4& b) {
  sum = fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

// fp32: a stage is summed by itself before it is added, which keeps the rounding errors of long sums small.
template <class Shape>
__device__ __forceinline__ void multiply_stage_fp32(typename Shape::Sums& sums, const char* weights, const char* rows,
                                                    const int (&columns)[Shape::kColumnFragments], int first_row) {
  const int lane = threadIdx.x % kWarpLanes, g = lane / 4, t = lane % 4 * 2;
  typename Shape::Sums stage = {};
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    float4 left[Shape::kColumnFragments][2];
#pragma unroll
    for (int m = 0; m < Shape::kColumnFragments; ++m) {
      left[m][0] = chunk_of(weights, columns[m] + g, chunk);
      left[m][1] = chunk_of(weights, columns[m] + g + 8, chunk);
    }
#pragma unroll
    for (int n = 0; n < Shape::kFragments; ++n) {
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const float4 right = chunk_of(rows, first_row + n * 8 + t + side, chunk);
#pragma unroll
        for (int m = 0; m < Shape::kColumnFragments; ++m) {
          add_products(stage[m][n][side], left[m][0], right);
          add_products(stage[m][n][2 + side], left[m][1], right);
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < Shape::kColumnFragments; ++m) {
#pragma unroll
    for (int n = 0; n < Shape::kFragments; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[m][n][i] += stage[m][n][i];
    }
  }
}

// Steps of kDepthBytes over depth; those beyond its end count as zeros.
struct StepRange {
  int first, last;
};

template <class Weight>
__device__ __forceinline__ int depth_steps(const ProductParams& params) {
  constexpr int kDepth = kDepthBytes / sizeof(Weight);
  return static_cast<int>((params.depth + kDepth - 1) / kDepth);
}

// The tile's products over some of its depth, in every warp's registers, by Shape::kThreads threads of all threadIdx.x.
// All stages are free at the end, once all threads have met.
template <class Element, class Weight, class Shape, bool kPaired, bool kAligned>
__device__ __forceinline__ void sum_tile(typename Shape::Sums& sums, char* shared, const ProductParams& params,
                                         const RowTile& tile, std::int64_t first_column, const StepRange& range) {
  constexpr int kThreads = Shape::kThreads, kStages = Shape::kStages, kDepth = kDepthBytes / sizeof(Weight);
  constexpr int kTileColumns = Shape::kWeightRows;
  static_assert(Shape::kRowTiles * sizeof(Weight) == sizeof(Element));
  const auto* x = static_cast<const Element*>(params.x);
  const Weight* weight = static_cast<const Weight*>(params.weight) + tile.group * params.group_stride;
  const std::int64_t weight_depth = stored_depth<Weight>(params.depth);
  const RowCopies<Weight, kTileColumns, kThreads, kAligned> weight_rows([&](int row) -> const Weight* {
    const bool up = kPaired && row >= kTileColumns / 2;
    const std::int64_t column = first_column + (up ? row - kTileColumns / 2 : row);
    return column < params.columns ? weight + (column + (up ? params.columns : 0)) * params.weight_stride : nullptr;
  });
  const RowCopies<Element, Shape::kRows, kThreads, kAligned> x_rows([&](int row) -> const Element* {
    if (row >= tile.count) return nullptr;
    const std::int64_t r = tile.first + row;
    return x + (params.x_order != nullptr ? params.x_order[r] / static_cast<std::int32_t>(params.slots) : r) *
                   params.x_stride;
  });
  const int steps = range.last - range.first;
  const auto load = [&](int step) {
    char* stage = shared + step % kStages * Shape::kStageBytes;
    const std::int64_t start = static_cast<std::int64_t>(range.first + step) * kDepth;
    weight_rows.copy(stage, weight, start, weight_depth);
#pragma unroll
    for (int i = 0; i < Shape::kRowTiles; ++i) {
      x_rows.copy(stage + (kTileColumns + i * Shape::kRows) * kDepthBytes, x, start + i * (kDepth / Shape::kRowTiles),
                  params.depth);
    }
  };
  const int warp = threadIdx.x / kWarpLanes, column_warp = warp % Shape::kColumnWarps;
  int columns[Shape::kColumnFragments];
#pragma unroll
  for (int m = 0; m < Shape::kColumnFragments; ++m) {
    columns[m] = kPaired ? column_warp * 16 + m * (kTileColumns / 2) : (column_warp * Shape::kColumnFragments + m) * 16;
  }
  const int first_row = warp / Shape::kColumnWarps * Shape::kFragments * 8;

  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) load(step);
    ptx::cp_async_commit_group();
  }
  for (int step = 0; step < steps; ++step) {
    ptx::cp_async_wait_group<kStages - 2>();
    __syncthreads();  // the step's rows are there, and all warps have left the stage that is loaded next
    if (step + kStages - 1 < steps) load(step + kStages - 1);
    ptx::cp_async_commit_group();
    if (first_row >= tile.count) continue;
    const char* weights = shared + step % kStages * Shape::kStageBytes;
    const char* rows = weights + kTileColumns * kDepthBytes;
    if constexpr (sizeof(Weight) == 1) {
      multiply_stage_int8<Element, Shape>(sums, weights, rows, columns, first_row);
    } else if constexpr (sizeof(Element) == 4) {
      multiply_stage_fp32<Shape>(sums, weights, rows, columns, first_row);
    } else {
      multiply_stage<Element, Shape>(sums, weights, rows, columns, first_row);
    }
  }
  ptx::cp_async_wait_all();
}

// epilogue: see product_epilogues.h.
template <class Element, class Weight, class Shape, class Epilogue, bool kAligned>
__global__ void __launch_bounds__(Shape::kThreads) product_kernel(ProductParams params, Epilogue epilogue) {
  constexpr bool kPaired = Epilogue::kPaired;
  using Output = typename Epilogue::Output;
  static_assert(!kPaired || Shape::kColumnFragments == 2);
  constexpr int kColumns = Shape::kWeightRows / (kPaired ? 2 : 1), kPack = kElementsPer16Bytes<Output>;
  // Of the finished rows, which meet in shared memory to leave 16 bytes at a time.
  constexpr int kPitch = kColumns + kPack;
  static_assert(Shape::kRows * kPitch * sizeof(Output) <= Shape::kStages * Shape::kStageBytes);
  LLADA_DYNAMIC_SHARED(char, shared);
  const auto [tile, first_column] = place_tile<Shape::kRows, kColumns>(params, blockIdx.x);
  if (tile.count <= 0) return;
  typename Shape::Sums sums = {};
  if (tile.group != params.groups) {
    sum_tile<Element, Weight, Shape, kPaired, kAligned>(sums, shared, params, tile, first_column,
                                                        {0, depth_steps<Weight>(params)});
  }
  __syncthreads();

  const WeightScales<Weight> scales(params, tile.group, kPaired);
  auto* finished = reinterpret_cast<Output*>(shared);
  const int lane = threadIdx.x % kWarpLanes, warp = threadIdx.x / kWarpLanes;
  const int warp_column = warp % Shape::kColumnWarps * (kColumns / Shape::kColumnWarps) + lane / 4;
  const int warp_row = warp / Shape::kColumnWarps * Shape::kFragments * 8 + lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < (kPaired ? 1 : Shape::kColumnFragments); ++m) {
#pragma unroll
    for (int n = 0; n < Shape::kFragments; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = warp_column + m * 16 + i / 2 * 8;
        float value;
        if constexpr (kPaired) {
          value = epilogue(scales.scaled(sums[0][n][i], first_column + column),
                           scales.scaled(sums[1][n][i], first_column + column + params.columns));
        } else {
          value = epilogue(scales.scaled(sums[m][n][i], first_column + column), first_column + column);
        }
        finished[(warp_row + n * 8 + i % 2) * kPitch + column] = from_float<Output>(value);
      }
    }
  }
  __syncthreads();
  const bool aligned = params.columns % kPack == 0;  // y itself is
  for (int i = threadIdx.x; i < tile.count * (kColumns / kPack); i += Shape::kThreads) {
    const int row = i / (kColumns / kPack), column = i % (kColumns / kPack) * kPack;
    const auto pack = *reinterpret_cast<const Vector<Output, kPack>*>(finished + row * kPitch + column);
    const std::int64_t r = tile.first + row, y_row = params.y_order != nullptr ? params.y_order[r] : r;
    Output* to = static_cast<Output*>(params.y) + y_row * params.columns + first_column + column;
    store_pack<kPack>(to, pack, params.columns - first_column - column, aligned);
  }
}

template <class Element, class Weight, class Shape, bool kAligned, class Epilogue>
int launch_tiles(const ProductParams& params, const Epilogue& epilogue) {
  const std::int64_t blocks = count_tiles<Shape::kRows, Shape::kWeightRows / (Epilogue::kPaired ? 2 : 1)>(params);
  if (blocks > kMaxTiles) return cudaErrorInvalidConfiguration;
  const LaunchConfig config{dim3(static_cast<unsigned>(blocks)), dim3(Shape::kThreads),
                            Shape::kStages * Shape::kStageBytes, params.stream};
  return launch(config, product_kernel<Element, Weight, Shape, Epilogue, kAligned>, params, epilogue);
}

// make_epilogue(element) gives the epilogue for an element type. Rows that are not aligned to 16 bytes are copied
// element by element. kMayBeNarrow: a product of one group has the narrow tile as well.
template <bool kMayBeNarrow = false, class MakeEpilogue>
int launch_product(const ProductParams& params, MakeEpilogue make_epilogue) {
  ProductTiles tiles = kTilesOfSm80;
  if (!kMayBeNarrow) tiles.narrow_rows = 0;
  ProductProblem problem{params.rows, params.columns, params.groups, 0};
  if (const int error = multiprocessors(&problem.multiprocessors)) return error;
  return dispatch_floating(params.dtype, [&](auto element) -> int {
    using Element = decltype(element);
    constexpr std::int64_t kBytes = sizeof(Element);
    const auto epilogue = make_epilogue(element);
    if (decltype(epilogue)::kPaired) problem.columns = 2 * params.columns;
    const bool aligned = aligned_rows(params.x, params.x_stride * kBytes) &&
                         aligned_rows(params.weight, (params.weight_stride | params.group_stride) * kBytes);
    if (!aligned) return launch_tiles<Element, Element, FewRows, false>(params, epilogue);
    const ProductShape shape = select_product(problem, tiles);
    if constexpr (kMayBeNarrow) {
      if (shape == ProductShape::kNarrow) return launch_tiles<Element, Element, Narrow, true>(params, epilogue);
    }
    if constexpr (kBytes == 2) {
      if (shape == ProductShape::kManyRows) return launch_tiles<Element, Element, ManyRows, true>(params, epilogue);
    }
    return launch_tiles<Element, Element, FewRows, true>(params, epilogue);
  });
}

}  // namespace llada::cuda

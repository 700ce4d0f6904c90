// What the products of all architectures share: how rows grouped by expert fall into tiles, and how a tile's rows lie
// in shared memory.
#pragma once

#include <cstdint>

#include "cuda/reduce.h"
#include "grouped_gemm/grouped_gemm_cuda.h"

namespace llada::cuda {

inline constexpr int kDepthBytes = 128, kChunkBytes = 16, kChunks = kDepthBytes / kChunkBytes;

// The 16-byte chunk `chunk` of a row of kDepthBytes: the same chunks of eight neighbouring rows lie in different banks,
// and where TMA's 128-byte swizzle puts them.
__device__ __forceinline__ int chunk_offset(int row, int chunk) {
  return row * kDepthBytes + (chunk ^ (row % kChunks)) * kChunkBytes;
}

// Rows `first` .. `first + count` of a group; group `groups` is of no expert; a count of 0 is no tile.
struct RowTile {
  int group;
  std::int32_t first, count;
};

// All lanes of a warp call it. Offsets that do not rise lead to missing or repeated tiles, never outside of y.
template <int kRows>
__device__ __forceinline__ RowTile find_tile(const ProductParams& params, unsigned tile) {
  const auto rows = static_cast<std::int32_t>(params.rows);
  if (params.offsets == nullptr) {
    const auto first = static_cast<std::int32_t>(tile * kRows);
    return {0, first, min(kRows, rows - first)};
  }
  const int lane = threadIdx.x % kWarpLanes, groups = static_cast<int>(params.groups);
  const auto offset = [&](int group) { return max(0, min(rows, params.offsets[group])); };
  for (int base = 0; base <= groups; base += kWarpLanes) {
    const int group = base + lane;
    const std::int32_t begin = group <= groups ? offset(group) : 0;
    const std::int32_t end = group < groups ? offset(group + 1) : group == groups ? rows : 0;
    const unsigned tiles = end > begin ? (static_cast<unsigned>(end - begin) + kRows - 1) / kRows : 0;
    unsigned sum = tiles;
#pragma unroll
    for (int distance = 1; distance < kWarpLanes; distance *= 2) {
      const unsigned below = __shfl_up_sync(kAllLanes, sum, distance);
      if (lane >= distance) sum += below;
    }
    const unsigned found = __ballot_sync(kAllLanes, tile < sum);
    if (found != 0) {
      const int source = __ffs(static_cast<int>(found)) - 1;
      const auto within = static_cast<std::int32_t>((tile - (sum - tiles)) * kRows);
      const std::int32_t first = __shfl_sync(kAllLanes, begin + within, source);
      const std::int32_t last = __shfl_sync(kAllLanes, end, source);
      return {base + source, first, min(kRows, last - first)};
    }
    tile -= __shfl_sync(kAllLanes, sum, kWarpLanes - 1);
  }
  return {groups, 0, 0};
}

// A tile of a launch: some rows of one group, some columns of the output.
struct ProductTile {
  RowTile rows;
  std::int64_t first_column;

  __device__ __forceinline__ bool exists() const { return rows.count > 0; }
};

// The `tile`-th; all lanes of a warp call it. Neighbours share what is better read once: of one group, whose weight may
// be larger than the second-level cache, the columns; of many, the rows.
template <int kRows, int kColumns>
__device__ __forceinline__ ProductTile place_tile(const ProductParams& params, unsigned tile) {
  const auto column_tiles = static_cast<unsigned>((params.columns + kColumns - 1) / kColumns);
  if (params.offsets == nullptr) {
    const auto row_tiles = static_cast<unsigned>((params.rows + kRows - 1) / kRows);
    if (tile >= row_tiles * column_tiles) return {{0, 0, 0}, 0};
    return {find_tile<kRows>(params, tile % row_tiles), tile / row_tiles * static_cast<std::int64_t>(kColumns)};
  }
  ProductTile found{find_tile<kRows>(params, tile / column_tiles),
                    tile % column_tiles * static_cast<std::int64_t>(kColumns)};
  const bool ordered = params.x_order != nullptr || params.y_order != nullptr;
  if (ordered && found.rows.group == params.groups) found.rows.count = 0;
  return found;
}

// At least as many tiles as any offsets need, or more than a grid has blocks.
template <int kRows, int kColumns>
std::int64_t count_tiles(const ProductParams& params) {
  const std::int64_t full = params.rows / kRows;
  std::int64_t ragged = params.groups + 1;
  if (params.offsets == nullptr) ragged = params.rows % kRows != 0;
  const std::int64_t row_tiles = full + ragged < params.rows ? full + ragged : params.rows;  // none is empty
  return row_tiles * ((params.columns + kColumns - 1) / kColumns);
}
inline constexpr std::int64_t kMaxTiles = 0x7fffffff;

}  // namespace llada::cuda

// How sums in wgmma's layout, with the weight as M, leave to the rows of y.
#pragma once

#include <cstdint>

#include "cuda/pack.h"
#include "cuda/ptx_sm90.h"
#include "grouped_gemm/product_tiles.h"

namespace llada::cuda {

// Where a warp's 16 columns of a tile leave to.
template <class Output>
struct OutputRows {
  const ProductParams& params;
  const RowTile& tile;
  std::int64_t column;

  __device__ __forceinline__ Output* row(int token) const {
    const std::int64_t r = tile.first + token, y_row = params.y_order != nullptr ? params.y_order[r] : r;
    return static_cast<Output*>(params.y) + y_row * params.columns + column;
  }
  __device__ __forceinline__ std::int64_t columns_left() const { return params.columns - column; }
};

inline constexpr int kStagingPitch = 48;  // bytes: the eight rows of a matrix lie in different banks
inline constexpr int kWarpStagingBytes = 16 * kStagingPitch;

// value(i) is the warp's i-th output. 16-bit outputs are turned round in `staging`, the warp's own kWarpStagingBytes,
// so that 16 bytes of a row leave at once; a warp writes whole sectors either way.
template <int kTokens, class Output, class Value>
__device__ __forceinline__ void store_columns(const OutputRows<Output>& out, char* staging, Value value) {
  const int lane = threadIdx.x % kWarpLanes;
  if constexpr (sizeof(Output) == 4) {
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n) {
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const int token = n * 8 + lane % 4 * 2 + side;
        if (token >= out.tile.count) continue;
        Output* row = out.row(token);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int column = lane / 4 + half * 8;
          if (column < out.columns_left()) row[column] = value(n * 4 + half * 2 + side);
        }
      }
    }
  } else {
    constexpr int kPart = kTokens < 16 ? kTokens : 16, kMatrices = kPart / 4, kPack = kElementsPer16Bytes<Output>;
    const bool aligned = out.params.columns % kPack == 0;  // y itself is
#pragma unroll
    for (int first = 0; first < kTokens; first += kPart) {
      std::uint32_t packed[kMatrices];  // of 8 tokens and 8 columns each, columns first
#pragma unroll
      for (int m = 0; m < kMatrices; ++m) {
        const int i = (first / 8 + m / 2) * 4 + m % 2 * 2;
        packed[m] = pack_pair<Output>(value(i), value(i + 1));
      }
      const int matrix = lane / 8 % kMatrices;
      ptx::stmatrix_trans(staging + (matrix / 2 * 8 + lane % 8) * kStagingPitch + matrix % 2 * kChunkBytes, packed);
      __syncwarp();
      const int token = first + lane / 2, column = lane % 2 * kPack;
      if (lane / 2 < kPart && token < out.tile.count) {
        const char* from = staging + lane / 2 * kStagingPitch + lane % 2 * kChunkBytes;
        store_pack<kPack>(out.row(token) + column, *reinterpret_cast<const Vector<Output, kPack>*>(from),
                          out.columns_left() - column, aligned);
      }
      __syncwarp();
    }
  }
}

}  // namespace llada::cuda

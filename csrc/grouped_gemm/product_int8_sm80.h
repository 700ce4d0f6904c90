// Weights of one byte in product_sm80.h: weight = byte (signed) * the scale of its row. They become 16-bit elements,
// which hold them exactly, in registers; the scale is applied to the sum over depth, once.
//
//   memory:   rows of ceil(depth / 16) * 16 bytes; of each 16 of depth, the bytes 4 t … 4 t + 3 are of depth 2 t,
//             2 t + 1, 2 t + 8, 2 t + 9: what ldmatrix gives lane 4 g + t is what it needs of row g for mma.m16n8k16
//   stage:    128 bytes of each weight row, and the 2 x 128 bytes of depth of each row that they meet
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/element.h"
#include "cuda/pack.h"
#include "cuda/ptx_sm80.h"
#include "grouped_gemm/product_tiles.h"

namespace llada::cuda {

// Elements of a weight's row in memory.
template <class Weight>
__device__ __forceinline__ std::int64_t stored_depth(std::int64_t depth) {
  return sizeof(Weight) == 1 ? (depth + 15) / 16 * 16 : depth;
}

// From a sum over depth of integers to what it stands for.
template <class Weight>
class WeightScales {
 public:
  __device__ __forceinline__ WeightScales(const ProductParams& params, int group, bool paired)
      : rows_(params.columns * (paired ? 2 : 1)), scales_(params.weight_scale + group * rows_) {}

  __device__ __forceinline__ float scaled(float sum, std::int64_t row) const {
    if constexpr (sizeof(Weight) == 1) return row < rows_ ? sum * scales_[row] : sum;
    return sum;
  }

 private:
  std::int64_t rows_;
  const float* scales_;
};

// Four signed bytes as elements: the first two in `low`, the others in `high`.
template <class Element>
__device__ __forceinline__ void expand_bytes(std::uint32_t bytes, std::uint32_t& low, std::uint32_t& high) {
  // 2^23 + u is a float whose lowest byte is u.
  constexpr std::uint32_t kMagic = 0x4b000000, kSignBits = 0x80808080;
  constexpr float kOffset = 8388608.0f + 128.0f;
  constexpr unsigned kByteAndMagic = 0x7440, kUpperHalves = 0x7632;
  float values[4];
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
    values[i] = __uint_as_float(__byte_perm(bytes ^ kSignBits, kMagic, kByteAndMagic + i)) - kOffset;
  }
  if constexpr (std::is_same_v<Element, __nv_bfloat16>) {  // exact: the lower halves are zeros
    low = __byte_perm(__float_as_uint(values[0]), __float_as_uint(values[1]), kUpperHalves);
    high = __byte_perm(__float_as_uint(values[2]), __float_as_uint(values[3]), kUpperHalves);
  } else {
    low = pack_pair<Element>(values[0], values[1]);
    high = pack_pair<Element>(values[2], values[3]);
  }
}

// As multiply_stage.
template <class Element, class Shape>
__device__ __forceinline__ void multiply_stage_int8(typename Shape::Sums& sums, const char* weights, const char* rows,
                                                    const int (&columns)[Shape::kColumnFragments], int first_row) {
  static_assert(Shape::kFragments % 2 == 0);
  const int lane = threadIdx.x % kWarpLanes;
#pragma unroll
  for (int chunk = 0; chunk < kChunks; chunk += 2) {  // each 16 of depth
    std::uint32_t bytes[Shape::kColumnFragments][4];
#pragma unroll
    for (int m = 0; m < Shape::kColumnFragments; ++m) {
      ptx::ldmatrix(bytes[m], weights + chunk_offset(columns[m] + lane % 16, chunk + lane / 16));
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      std::uint32_t left[Shape::kColumnFragments][4];
#pragma unroll
      for (int m = 0; m < Shape::kColumnFragments; ++m) {
        expand_bytes<Element>(bytes[m][half * 2], left[m][0], left[m][2]);
        expand_bytes<Element>(bytes[m][half * 2 + 1], left[m][1], left[m][3]);
      }
      const int k = (chunk + half) * 2;  // in chunks of the rows
      const char* row_tile = rows + k / kChunks * Shape::kRows * kDepthBytes;
#pragma unroll
      for (int n = 0; n < Shape::kFragments; n += 2) {
        std::uint32_t right[4];
        const int row = first_row + n * 8 + lane % 8 + lane / 16 * 8;
        ptx::ldmatrix(right, row_tile + chunk_offset(row, k % kChunks + lane / 8 % 2));
#pragma unroll
        for (int m = 0; m < Shape::kColumnFragments; ++m) {
          ptx::mma_m16n8k16<Element>(sums[m][n], left[m], right[0], right[1]);
          ptx::mma_m16n8k16<Element>(sums[m][n + 1], left[m], right[2], right[3]);
        }
      }
    }
  }
}

}  // namespace llada::cuda

// Describes a matrix in global memory to the tile copies of ptx_sm90.h (host code).
#pragma once

#include <cstdint>

#include "cuda/ptx_sm90.h"

namespace llada::cuda {

// rows x columns elements, columns contiguous; or planes of such matrices. The base is aligned to 16 bytes, strides are
// multiples of 16 bytes.
struct TileSource {
  const void* base;
  int element_bytes;  // 1, 2 or 4; a tile has 128 / element_bytes columns
  std::int64_t columns, rows;
  std::int64_t row_bytes;
  int box_rows;                              // rows of a tile, at most 256
  std::int64_t planes = 0, plane_bytes = 0;  // 0: a matrix, for tma_load_2d; else for tma_load_3d
};

#ifdef LLADA_EMULATE

inline int make_tensor_map(ptx::TensorMap* map, const TileSource& source) {
  constexpr int kAlignment = 16, kMaxBox = 256;
  const bool good = reinterpret_cast<std::uintptr_t>(source.base) % kAlignment == 0 && source.columns > 0 &&
                    source.rows > 0 && source.row_bytes % kAlignment == 0 && source.plane_bytes % kAlignment == 0 &&
                    source.box_rows >= 1 && source.box_rows <= kMaxBox;
  if (!good) return cudaErrorInvalidValue;
  const bool planar = source.planes != 0;
  *map = {source.base,      source.element_bytes, planar ? 3 : 2,
          source.columns,   source.rows,          planar ? source.planes : 1,
          source.row_bytes, source.plane_bytes,   source.box_rows};
  return cudaSuccess;
}

#else

// 0 or a cudaError_t. The encoder is the driver's, asked for at run time: nothing links with it.
inline int make_tensor_map(ptx::TensorMap* map, const TileSource& source) {
  constexpr int kTileRowBytes = 128, kEncoderSince = 12000;
  using Encoder = decltype(&cuTensorMapEncodeTiled);
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kEncoderSince, cudaEnableDefault, &found);
  if (error != cudaSuccess) return error;
  if (found != cudaDriverEntryPointSuccess) return cudaErrorInsufficientDriver;

  // The type matters only where elements outside the tensor are filled with NaN, which they are not.
  const CUtensorMapDataType type = source.element_bytes == 1   ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                                   : source.element_bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_UINT16
                                                               : CU_TENSOR_MAP_DATA_TYPE_UINT32;
  const unsigned rank = source.planes != 0 ? 3 : 2;
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(source.columns), static_cast<cuuint64_t>(source.rows),
                               static_cast<cuuint64_t>(source.planes)};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(source.row_bytes),
                                 static_cast<cuuint64_t>(source.plane_bytes)};
  const cuuint32_t box[3] = {static_cast<cuuint32_t>(kTileRowBytes / source.element_bytes),
                             static_cast<cuuint32_t>(source.box_rows), 1};
  const cuuint32_t steps[3] = {1, 1, 1};
  const CUresult result = reinterpret_cast<Encoder>(function)(
      map, type, rank, const_cast<void*>(source.base), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

#endif

}  // namespace llada::cuda

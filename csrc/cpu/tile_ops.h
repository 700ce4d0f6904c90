// What happens to a tile once panel_gemm has summed it: SwiGLU, bias, rounding, and packing or quantising as rows of
// the next product. A tile is [rows][32] floats, rows <= 12.
#pragma once

#include <cstdint>

#include "common/array_view.h"
#include "common/isa.h"

namespace llada {

struct StoreTileArgs {
  const float* tile;
  int num_rows;
  int num_columns;
  const float* bias;  // [num_columns], or null
  void* out;          // fp32 or bf16, row r at out + r * out_stride elements
  std::int64_t out_stride;
};

struct ScatterTileArgs {
  const float* tile;
  int num_rows;
  int num_columns;
  const std::int32_t* index_of_row;  // row r goes to out + index_of_row[r] * out_stride
  float* out;
  std::int64_t out_stride;
  // Past the caches, which costs no reading of the lines written: of whole tiles, to 64-byte aligned rows.
  bool streamed;
};

struct AddTileArgs {
  const float* tile;
  int num_rows;
  const std::int32_t* token;       // row r is added to sums + token[r] * 32,
  const std::int32_t* assignment;  // times weights[assignment[r]]
  const float* weights;
  float* sums;
};

struct CombineArgs {
  const float* rows;          // [.., columns]
  const std::int32_t* slots;  // those of rows that are added up, in this order,
  const float* weights;       // each times weights[slot]
  int num_slots;
  std::int64_t columns;
  void* out;
};

struct QuantizedRow {
  float scale;
  std::int32_t sum;  // of the bytes
};

struct TileOps {
  // silu(column c) * column (c + 16) into column c, for c < 16.
  void (*swiglu)(float* tile, int num_rows);
  void (*store)(const StoreTileArgs& args);
  void (*scatter)(const ScatterTileArgs& args);
  // Makes this thread's streamed rows visible to whom it synchronises with next.
  void (*end_stream)();
  void (*add)(const AddTileArgs& args);
  // The first `lanes` lanes of the tile's columns as panel_gemm rows [lanes][num_rows].
  void (*pack)(const float* tile, int num_rows, int lanes, std::uint32_t* rows);
  // A row of k elements as bytes of a scale, element = byte * scale, 127 for the largest magnitude. A row with an
  // infinity or a NaN becomes zeros and a scale of NaN, which makes all that is computed from it NaN.
  QuantizedRow (*quantize)(const void* row, std::int64_t k, std::int8_t* bytes);
  // One token: out = sum of weight * row, rounded once. The same bits as adding to zeros in the same order.
  void (*combine)(const CombineArgs& args);
};

// For a dtype of out, of packed rows and of rows to quantise, fp32 or bf16.
const TileOps& select_tile_ops(DType dtype, Isa isa);

}  // namespace llada

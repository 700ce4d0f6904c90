// One tile of attention: up to 12 query rows of one head against the packed keys and values of one sequence.
//
//   query   [rows][depth lanes]                 keys   [key panel][depth lanes][32 keys]
//   scores  [rows][256 keys]   = query x keys, one block of 256 keys at a time, fp32, scaled by log2(e)
//   weights [rows][256 keys]   = 2^(score - running maximum), in the element type
//   sums    [rows][depth]      = sums x 2^(old maximum - new) + weights x values
//                                               values [depth panel][key lanes][32 components]
//
// A lane is 32 bits: one fp32 or two neighbouring bf16 (see cpu/panel_gemm.h). Blocks start at the sequence's first
// valid key and a row's masked keys weigh exactly zero, so a row's bits depend on its own keys only: not on padding,
// on the other rows of the tile, or on how many blocks those rows need.
#pragma once

#include <cstdint>

namespace llada {

inline constexpr int kAttentionMaxRows = 12;
inline constexpr int kAttentionKeyBlock = 256;
inline constexpr int kAttentionColumns = 32;  // columns of a packed panel

struct AttentionTileArgs {
  const void* query;  // row r of the tile at query + r * query_stride elements
  std::int64_t query_stride;
  void* out;
  std::int64_t out_stride;
  int num_rows;
  int depth;
  int depth_lanes;   // of one query row and one key panel
  int depth_panels;  // of values
  const std::uint32_t* keys;
  const std::uint32_t* values;
  std::int64_t key_lanes;                    // of one depth panel of values
  std::int64_t row_keys[kAttentionMaxRows];  // row r sees keys [0, row_keys[r]) of the sequence
  const std::uint8_t* mask;                  // null, or one byte per (row, key)
  std::int64_t mask_row_stride;
  std::int64_t mask_key_stride;
  float scale_log2;  // scale x log2(e)
  // Scratch, 64-byte aligned.
  std::uint32_t* query_lanes;  // [rows][depth_lanes]
  float* scores;               // [rows][256]
  std::uint32_t* weights;      // [rows][256 keys in lanes]
  float* sums;                 // [rows][32 * depth_panels]
};

// A tile function and how many rows it takes at once.
struct AttentionKernel {
  void (*run)(const AttentionTileArgs&);
  int rows;
};

AttentionKernel attention_kernel_portable(bool bf16);
AttentionKernel attention_kernel_avx2(bool bf16);
AttentionKernel attention_kernel_avx512(bool bf16);

}  // namespace llada

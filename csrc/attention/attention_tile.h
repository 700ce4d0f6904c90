// One tile of attention: up to 12 query rows against one block of 256 keys, added to the rows' running states.
//
//   queries [rows][272 lanes]                keys   [8 panels][depth lanes][32 keys]
//   scores  [rows][256 keys]  = queries x keys, fp32
//   weights [rows][256 keys]  = 2^(scale x log2(e) x (score - the block's highest)), in the element type
//   sums    [rows][depth]     = weights x values        values [depth panels][lanes of 256 keys][32 components]
//   state   = fold(state, (sums, sum of weights, maximum))
//
// A lane is 32 bits: one fp32 or two neighbouring bf16 (see cpu/panel_gemm.h). Per lane of a panel: 2 vector loads, 12
// broadcasts and 24 multiply-adds on 24 accumulators. Scores and weights stay in L1, the packed block in L2.
//
// Blocks start at the sequence's first valid key, a block's sums do not depend on what came before, and a row's masked
// keys weigh exactly zero. So a row's bits depend on its own keys only: not on padding, on the other rows of the tile,
// or on which thread took which block.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace llada {

inline constexpr int kAttentionRows = 12;
inline constexpr int kAttentionBlock = 256;   // keys
inline constexpr int kAttentionColumns = 32;  // of a packed panel
inline constexpr int kAttentionMaskWords = kAttentionBlock / 32;
// Lanes from one query row to the next: a constant leaves the products' registers alone, and the 16 more than the most
// a row has spread the rows over a cache's sets.
inline constexpr int kQueryStride = 256 + 16;

// A row's state: its unscaled output, padded to whole panels of components, then the maximum and the sum of weights.
inline constexpr int kStateExtra = 16;  // floats after the output, so that states stay 64-byte aligned

// What becomes of a tile's weights x values.
enum class AttentionSums {
  kStart,  // the states hold nothing yet
  kFold,   // they hold earlier blocks
  kAdd,    // they hold earlier keys of this block
};

struct AttentionTileArgs {
  const std::uint32_t* queries;
  const std::uint32_t* keys;     // of the keys from first_key on
  const std::uint32_t* values;   // likewise
  int value_lanes;               // of one depth panel of values
  const std::uint32_t* mask;     // null, or [rows][8]: a bit a key, zero = not seen
  int row_keys[kAttentionRows];  // row r sees keys [0, row_keys[r]) of the block
  int num_rows;
  int first_key, end_key;  // what the rows see lies between these multiples of 32
  int depth_lanes;         // of one query row and one key panel, at most kQueryStride
  int depth_panels;        // of values
  float scale_log2;        // scale x log2(e), above zero
  float* states;           // row r at states + r * state_stride
  std::int64_t state_stride;
  AttentionSums sums;
  // Scratch, 64-byte aligned.
  float* scores;           // [12][256]
  std::uint32_t* weights;  // [12][256 keys in lanes]
};

struct AttentionValues {
  const void* source;  // key r at source + r * row_stride elements
  std::int64_t row_stride;
  int count;   // keys
  int padded;  // keys to write: those past count, and components past depth, become zeros
  int depth;
  std::uint32_t* values;
  int value_lanes;
};

// Keys or values where the caller has them.
struct AttentionKeyRows {
  const char* source;  // key r at source + r * row_bytes
  std::int64_t row_bytes;
  int count;  // keys that are there; those of a tile's range past them count as zeros
};

// What a tile's rows see by the caller's mask: `any` of them the keys of each word, `all` of them every key.
struct AttentionMaskSeen {
  std::uint32_t any[kAttentionMaskWords];
  bool all;
};

// What each instruction set provides.
struct AttentionKernel {
  void (*tile)(const AttentionTileArgs&);
  // The three steps of a tile whose states are at kStart, for callers that hold the keys of a block piece by piece: the
  // first and the last take one range of keys after the other, the second the whole of what they took.
  void (*score)(const AttentionTileArgs&);
  void (*weigh)(const AttentionTileArgs&);
  void (*add_values)(const AttentionTileArgs&);
  // The first and the last of them on rows as they lie, those of the keys from first_key on, nothing packed: for few
  // queries, with a depth of whole panels. A range is of 16 keys for scores, of 2 for values. Null where there is none.
  void (*score_rows)(const AttentionTileArgs&, const AttentionKeyRows&);
  void (*add_value_rows)(const AttentionTileArgs&, const AttentionKeyRows&);
  int rows;  // that a tile takes
  void (*pack_values)(const AttentionValues&);
  void (*fold)(float* state, const float* block, int columns);  // a later block's state into an earlier one
  void (*write)(const float* state, int columns, int depth, void* out);
  // The first `count` bytes of each row as bits [num_rows][8], zero up to a whole word.
  AttentionMaskSeen (*read_mask)(const std::uint8_t* const* rows, int num_rows, int count, std::uint32_t* bits);
};

AttentionKernel select_attention_kernel(DType dtype, Isa isa);

AttentionKernel attention_kernel_portable(bool bf16);
AttentionKernel attention_kernel_avx2(bool bf16);
AttentionKernel attention_kernel_avx512(bool bf16);
AttentionKernel attention_kernel_bf16_avx512fma();

}  // namespace llada

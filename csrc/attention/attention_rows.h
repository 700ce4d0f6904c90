// Which rows a block has and what they see, for all attention kernels on a GPU.
//
//   sequence  queries that share a range of keys: a row of the batch, or one of the sequences packed in it
//   row       of a sequence and a key head: head within the group * queries of the sequence + query
//   tile      neighbouring rows, kRows at the most. Packed sequence s has the tiles from rows before it / kRows + s on:
//             more than it needs, so that a tile finds its sequence by halving, without a sum over the others.
#pragma once

#include <cstdint>

#include "attention/attention_cuda.h"
#include "cuda/pack.h"
#include "cuda/toolkit.h"

namespace llada::cuda {

__device__ __forceinline__ int clamp(std::int64_t value, int low, int high) {
  return value < low ? low : value > high ? high : static_cast<int>(value);
}

__device__ __forceinline__ std::int64_t index_at(const IndexArray& array, std::int64_t row, std::int64_t column = 0) {
  const std::int64_t at = row * array.stride + column * array.inner_stride;
  return array.wide ? static_cast<const std::int64_t*>(array.data)[at]
                    : static_cast<const std::int32_t*>(array.data)[at];
}

struct KeySpan {
  int first, end;
};

// What key_range leaves of a sequence's keys.
__device__ __forceinline__ KeySpan valid_keys(const AttentionParams& params, int batch, KeySpan keys) {
  if (params.key_range.data != nullptr) {
    keys.first = max(keys.first, clamp(index_at(params.key_range, batch, 0), 0, params.keys));
    keys.end = min(keys.end, clamp(index_at(params.key_range, batch, 1), 0, params.keys));
  }
  return {keys.first, max(keys.end, keys.first)};
}

struct AttentionRows {
  int batch, key_head, split;
  int first_query, queries;  // of the sequence
  int first_key, keys;       // that it may see, at most
  int first_row, count;      // of the tile
};

inline int row_tiles(const AttentionParams& params, int rows_per_tile) {
  const int group = params.heads / params.key_heads;
  const std::int64_t rows = static_cast<std::int64_t>(group) * params.queries;
  const std::int64_t tiles = params.cu_seqlens.data == nullptr ? (rows + rows_per_tile - 1) / rows_per_tile
                                                               : rows / rows_per_tile + params.sequences;
  return static_cast<int>(tiles);
}

// The block's tile; a count of 0 is none.
template <int kRows>
__device__ __forceinline__ AttentionRows find_rows(const AttentionParams& params, int tiles) {
  AttentionRows rows;
  const unsigned heads = blockIdx.x / tiles / params.splits;
  // Late queries first: where blocks of positions mask them, they see more keys.
  int tile = tiles - 1 - static_cast<int>(blockIdx.x % tiles);
  rows.split = static_cast<int>(blockIdx.x / tiles % params.splits);
  rows.batch = static_cast<int>(heads / params.key_heads);
  rows.key_head = static_cast<int>(heads % params.key_heads);
  rows.first_query = 0;
  rows.queries = params.queries;
  KeySpan keys{0, params.keys};
  const std::int64_t group = params.heads / params.key_heads;
  if (params.cu_seqlens.data != nullptr) {
    const auto start = [&](int sequence) { return clamp(index_at(params.cu_seqlens, sequence), 0, params.queries); };
    const auto first_tile = [&](int sequence) { return start(sequence) * group / kRows + sequence; };
    int low = 0, high = params.sequences;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (first_tile(middle) <= tile ? low : high) = middle;
    }
    tile -= static_cast<int>(first_tile(low));
    keys = {start(low), start(low + 1)};
    rows.first_query = keys.first;
    rows.queries = keys.end - keys.first;
  }
  keys = valid_keys(params, rows.batch, keys);
  rows.first_key = keys.first;
  rows.keys = keys.end - keys.first;
  const std::int64_t first = static_cast<std::int64_t>(tile) * kRows, left = group * rows.queries - first;
  rows.first_row = static_cast<int>(first);
  rows.count = tile < 0 ? 0 : clamp(left, 0, kRows);
  return rows;
}

struct HeadQuery {
  int head, query;  // of the whole arrays
};

__device__ __forceinline__ HeadQuery head_query(const AttentionParams& params, const AttentionRows& rows, int row) {
  const int at = rows.first_row + row, within = at / rows.queries;
  return {rows.key_head * (params.heads / params.key_heads) + within, rows.first_query + at - within * rows.queries};
}

// How many of the sequence's keys a query sees: those up to the end of its own block of positions.
__device__ __forceinline__ int visible_keys(const AttentionParams& params, const AttentionRows& rows, int query) {
  if (params.block_size == 0) return rows.keys;
  const std::int64_t position = static_cast<std::int64_t>(params.keys) - params.queries + query;
  if (position < 0) return 0;
  return clamp((position / params.block_size + 1) * params.block_size - rows.first_key, 0, rows.keys);
}

// What all rows of the tile see, and what any of them does: the first `least` and `most` of the sequence's keys.
struct VisibleSpan {
  int least, most;
};

__device__ __forceinline__ VisibleSpan visible_span(const AttentionParams& params, const AttentionRows& rows) {
  int first = head_query(params, rows, 0).query, last = head_query(params, rows, rows.count - 1).query;
  if (first > last || rows.count > rows.queries) {  // more than one head
    first = rows.first_query;
    last = first + rows.queries - 1;
  }
  return {visible_keys(params, rows, first), visible_keys(params, rows, last)};
}

template <class Element>
__device__ __forceinline__ Element* head_row(const HeadsArray& array, int batch, std::int64_t position, int head) {
  return static_cast<Element*>(const_cast<void*>(array.data)) + batch * array.batch_stride +
         position * array.position_stride + head * array.head_stride;
}

__device__ __forceinline__ const std::uint8_t* mask_row(const AttentionParams& params, int batch, const HeadQuery& at) {
  return params.mask + batch * params.mask_strides[0] + at.head * params.mask_strides[1] +
         at.query * params.mask_strides[2];
}

// Bit i: whether the mask lets the row see key first + i of the sequence; those past its end are not seen.
__device__ __forceinline__ std::uint32_t mask_word(const AttentionParams& params, const AttentionRows& rows, int row,
                                                   int first) {
  const int count = row < rows.count ? clamp(rows.keys - first, 0, 32) : 0;
  if (count == 0) return 0;
  const std::int64_t stride = params.mask_strides[3];
  const std::uint8_t* from = mask_row(params, rows.batch, head_query(params, rows, row)) +
                             (static_cast<std::int64_t>(rows.first_key) + first) * stride;
  std::uint32_t word = 0;
  if (stride == 1) {
#pragma unroll
    for (int half = 0; half < 32; half += 16) {
      const bool aligned = reinterpret_cast<std::uintptr_t>(from + half) % 16 == 0;
      const auto pack = load_pack<16>(from + half, count - half, aligned);
#pragma unroll
      for (int i = 0; i < 16; ++i) word |= static_cast<std::uint32_t>(pack.elements[i] != 0) << (half + i);
    }
  } else {
    for (int i = 0; i < count; ++i) word |= static_cast<std::uint32_t>(from[i * stride] != 0) << i;
  }
  return word;
}

// Keys per split, in units of kSplitKeys. It depends on the sequence's own keys, not on the longest of the batch.
__device__ __forceinline__ int split_units(const AttentionParams& params, int keys) {
  const int units = (keys + kSplitKeys - 1) / kSplitKeys;
  if (params.splits == 1) return units;
  return max(params.least_split_units, (units + kMaxKeySplits - 1) / kMaxKeySplits);
}

// Splits that have keys; at least one, which says so where there are none.
__device__ __forceinline__ int used_splits(const AttentionParams& params, int keys) {
  const int size = split_units(params, keys) * kSplitKeys;
  return keys <= size ? 1 : (keys + size - 1) / size;
}

// A row of a split call: its outputs and, behind all outputs, its states.
__device__ __forceinline__ std::int64_t whole_row(const AttentionParams& params, int batch, const HeadQuery& at) {
  return (static_cast<std::int64_t>(batch) * params.heads + at.head) * params.queries + at.query;
}

__device__ __forceinline__ float* split_states(const AttentionParams& params) {
  return params.outputs +
         static_cast<std::int64_t>(params.batch) * params.heads * params.queries * params.splits * params.depth;
}

}  // namespace llada::cuda

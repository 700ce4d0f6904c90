// What all threads of a block of attention_sm90.cu know, and which tiles of keys it visits.
#pragma once

#include <cstdint>

#include "attention/attention_rows.h"
#include "cuda/reduce.h"

namespace llada::cuda {

inline constexpr int kSearchedTiles = 1024;  // at most; those behind them are all visited

struct AttentionBlock {
  AttentionRows rows;
  int least, tiles;  // keys that all rows see; tiles up to the last key that any does
  int searched;      // tiles of which `hidden` says that the mask tensor shows them to no row
  bool hidden[kSearchedTiles];

  __device__ __forceinline__ int next_tile(int tile) const {
    do {
      ++tile;
    } while (tile < searched && hidden[tile]);
    return tile;
  }
};

// Rows and tiles, by one thread.
template <int kRows, int kKeys>
__device__ __forceinline__ void place_block(const AttentionParams& params, AttentionBlock& block, int tiles) {
  block.rows = find_rows<kRows>(params, tiles);
  if (block.rows.count == 0) return;
  const VisibleSpan span = visible_span(params, block.rows);
  block.least = span.least;
  block.tiles = (span.most + kKeys - 1) / kKeys;
  block.searched = params.mask != nullptr ? min(block.tiles, kSearchedTiles) : 0;
}

// By all threads, before they part: a warp per tile, eight rows at a time until one is seen. A mask that hides little
// is hardly read.
template <int kKeys, int kThreads>
__device__ __forceinline__ void search_tiles(const AttentionParams& params, AttentionBlock& block) {
  constexpr int kWords = kKeys / 32, kWarpRows = kWarpLanes / kWords;
  const int lane = threadIdx.x % kWarpLanes;
  for (int tile = threadIdx.x / kWarpLanes; tile < block.searched; tile += kThreads / kWarpLanes) {
    const int first_key = tile * kKeys + lane % kWords * 32;
    bool seen = false;
    for (int row = lane / kWords; row - lane / kWords < block.rows.count && !seen; row += kWarpRows) {
      seen = __any_sync(kAllLanes, mask_word(params, block.rows, row, first_key) != 0);
    }
    if (lane == 0) block.hidden[tile] = !seen;
  }
  __syncthreads();
}

}  // namespace llada::cuda

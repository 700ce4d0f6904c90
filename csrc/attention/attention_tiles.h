// What a block of attention_sm80.cu has in shared memory, and which tiles of keys it visits.
#pragma once

#include <cstdint>

#include "attention/attention_rows.h"
#include "cuda/reduce.h"

namespace llada::cuda {

inline constexpr int kAttentionWarps = 4, kAttentionThreads = kAttentionWarps * kWarpLanes, kAttentionChunk = 16;

template <int kDepthOfHead, int kKeysOfTile, int kFragmentsOfWarp>
struct BlockShape {
  static constexpr int kDepth = kDepthOfHead, kKeys = kKeysOfTile, kFragments = kFragmentsOfWarp;
  static constexpr int kRows = kAttentionWarps * kFragments * 16, kRowBytes = kDepth * 2,
                       kChunks = kRowBytes / kAttentionChunk;
  static constexpr int kQueryBytes = kRows * kRowBytes, kTileBytes = kKeys * kRowBytes;
  static constexpr int kMaskWords = kRows * kKeys / 32;
  static_assert(kSplitKeys % kKeys == 0);
};

// Which tiles the block visits, and what its rows see of each.
template <class Shape>
class TileWalk {
 public:
  // bits: two tiles' worth of mask words in shared memory, if there is a mask.
  __device__ TileWalk(const AttentionParams& params, const AttentionRows& rows, std::uint32_t* bits)
      : params_(params), rows_(rows), bits_(bits) {
    const VisibleSpan span = visible_span(params, rows);
    const int split = split_units(params, rows.keys) * kSplitKeys;
    const std::int64_t begin = static_cast<std::int64_t>(split) * rows.split;
    const std::int64_t end = min(begin + split, std::int64_t{span.most});
    least_ = span.least;
    tile_ = static_cast<int>(begin / Shape::kKeys) - 1;
    end_ = static_cast<int>((end + Shape::kKeys - 1) / Shape::kKeys);
  }

  // To the next tile that a row sees; false after the last. All threads of the block call it.
  __device__ bool advance() {
    slot_ ^= 1;
    while (++tile_ < end_) {
      whole_ = (tile_ + 1) * Shape::kKeys <= least_;
      if (params_.mask == nullptr || read_mask()) return true;
    }
    return false;
  }

  __device__ int first_key() const { return tile_ * Shape::kKeys; }
  __device__ int slot() const { return slot_; }
  __device__ bool whole() const { return whole_; }

 private:
  // The mask's bits of the tile at hand; false when none is set.
  __device__ bool read_mask() {
    bool any = false, all = true;
    for (int i = threadIdx.x; i < Shape::kMaskWords; i += kAttentionThreads) {
      constexpr int kWords = Shape::kKeys / 32;
      const int row = i / kWords, first = first_key() + i % kWords * 32;
      const std::uint32_t word = mask_word(params_, rows_, row, first);
      bits_[slot_ * Shape::kMaskWords + i] = word;
      any |= word != 0;
      all &= row >= rows_.count || word == 0xffffffffu;
    }
    whole_ &= __syncthreads_and(all) != 0;
    return __syncthreads_or(any) != 0;
  }

  const AttentionParams& params_;
  const AttentionRows& rows_;
  std::uint32_t* bits_;
  int least_, tile_, end_, slot_ = 1;
  bool whole_ = false;
};

}  // namespace llada::cuda

// Few queries against many keys: one block of keys, all heads at a time.
//
// Such a call waits for keys and values, and memory delivers them twice as fast in the order in which they lie: token
// by token, the heads of a token side by side. So 16 tokens at a time are packed for all heads (R16 below), and every
// tile takes 32 keys of its head while they are in L2. Scores and weights of all tiles stay in L2 meanwhile.
//
//   keys of the block:    for 32 tokens { pack R16, R16 of every head; score them in every tile }
//   weigh every tile
//   values of the block:  for 32 tokens { pack R16, R16 of every head; add them in every tile }
//
// The steps are those of a whole tile, and a sum that pauses between two pieces goes on where it was: same bits.
#include <algorithm>

#include "attention/attention_worker.h"
#include "cpu/panel_gemm.h"
#include "cpu/thread_scratch.h"

namespace llada {
namespace {

constexpr int kColumns = kAttentionColumns;
constexpr int kTokens = kColumns / 2;  // packed at a time
constexpr int kValueTokens = 4;

}  // namespace

void AttentionWorker::run_all_heads(const AttentionItem& item) {
  if (item.first_block == item.end_block) return;
  block_ = find_block(item, item.first_block);
  find_head_tiles(item);
  int first = kAttentionBlock, end = 0;
  for (const HeadTile& tile : head_tiles_) {
    first = std::min(first, tile.args.first_key);
    end = std::max(end, tile.args.end_key);
  }
  for (int key = first; key < end; key += kColumns) score_heads(key);
  for (const HeadTile& tile : head_tiles_) kernel_.weigh(tile.args);
  for (int key = first; key < end; key += kColumns) add_head_values(key);
}

// The tiles of every head that see a key of the block, each with scratch of its own.
void AttentionWorker::find_head_tiles(const AttentionItem& item) {
  const std::int64_t heads = args_.k.size(2), tiles = (item.rows() + kernel_.rows - 1) / kernel_.rows;
  const std::int64_t count = heads * tiles, scores_size = kAttentionRows * kAttentionBlock;
  const std::int64_t queries_size = kAttentionRows * kQueryStride;
  const std::int64_t weights_size = scores_size / lane_values(args_.q.dtype);
  auto* queries = thread_scratch<struct HeadQueries, std::uint32_t>(count * queries_size);
  auto* scores = thread_scratch<struct HeadScores, float>(count * scores_size);
  auto* weights = thread_scratch<struct HeadWeights, std::uint32_t>(count * weights_size);
  auto* masks = thread_scratch<struct HeadMasks, std::uint8_t>(args_.mask.defined() ? count * scores_size : 0);
  head_tiles_.clear();
  AttentionItem one = item;
  for (one.key_head = 0; one.key_head < heads; ++one.key_head) {
    begin(one);
    for (std::int64_t row = 0; row < item.rows(); row += kernel_.rows) {
      place_tile(item.first_block, row, queries);
      tile_.sums = AttentionSums::kStart;
      tile_.scores = scores;
      tile_.weights = weights;
      mask_ = masks;
      if (find_range(row, item.first_block * kAttentionBlock)) head_tiles_.push_back({tile_, one.key_head});
      queries += queries_size;
      scores += scores_size;
      weights += weights_size;
      masks += args_.mask.defined() ? scores_size : 0;
    }
  }
}

void AttentionWorker::score_heads(int key) {
  const DType dtype = args_.k.dtype;
  const std::int64_t heads = args_.k.size(2), size = tile_.depth_lanes * kColumns;
  auto* panels = thread_scratch<struct HeadKeys, std::uint32_t>(heads * size);
  for (int half = 0; half < kColumns; half += kTokens) {
    const char* source = block_.keys + (key + half) * args_.k.stride(1) * dtype_bytes(dtype);
    const int count = std::clamp(block_.count - key - half, 0, kTokens);
    for (std::int64_t head = 0; head < heads; ++head) {
      pack_half_panel(dtype, source + head * args_.k.stride(2) * dtype_bytes(dtype), args_.k.stride(1), count,
                      args_.k.size(3), panels + head * size + half);
    }
  }
  for (const HeadTile& tile : head_tiles_) {
    if (key < tile.args.first_key || key >= tile.args.end_key) continue;
    AttentionTileArgs args = tile.args;
    args.first_key = key;
    args.end_key = key + kColumns;
    args.keys = panels + tile.head * size;
    kernel_.score(args);
  }
}

void AttentionWorker::add_head_values(int key) {
  const DType dtype = args_.v.dtype;
  const int values = lane_values(dtype);
  const std::int64_t heads = args_.v.size(2), size = columns_ * kColumns / values;
  auto* panels = thread_scratch<struct HeadValues, std::uint32_t>(heads * size);
  for (int half = 0; half < kColumns; half += kValueTokens) {
    const char* source = block_.values + (key + half) * args_.v.stride(1) * dtype_bytes(dtype);
    const int count = std::clamp(block_.count - key - half, 0, kValueTokens);
    for (std::int64_t head = 0; head < heads; ++head) {
      kernel_.pack_values({source + head * args_.v.stride(2) * dtype_bytes(dtype), args_.v.stride(1), count,
                           kValueTokens, static_cast<int>(args_.v.size(3)),
                           panels + head * size + half / values * kColumns, kColumns / values});
    }
  }
  for (const HeadTile& tile : head_tiles_) {
    if (key < tile.args.first_key || key >= tile.args.end_key) continue;
    AttentionTileArgs args = tile.args;
    args.sums = key == tile.args.first_key ? AttentionSums::kStart : AttentionSums::kAdd;
    args.first_key = key;
    args.end_key = key + kColumns;
    args.values = panels + tile.head * size;
    args.value_lanes = kColumns / values;
    kernel_.add_values(args);
  }
}

}  // namespace llada

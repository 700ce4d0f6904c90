// Few queries against many keys: one block of keys, several heads at a time.
//
// Such a call waits for keys and values, and memory delivers them twice as fast in the order in which they lie: token
// by token, the heads of a token side by side. So 16 tokens at a time are taken by the tiles of all heads of the item,
// nothing packed where the kernel can do without. Scores and weights of all tiles stay in L2 meanwhile.
//
//   keys of the block:    for 16 tokens { score them in the tile of every head }
//   weigh every tile
//   values of the block:  for 16 tokens { add them in the tile of every head }
//
// The steps are those of a whole tile, and a sum that pauses between two pieces goes on where it was: same bits.
#include <algorithm>

#include "attention/attention_worker.h"
#include "cpu/panel_gemm.h"
#include "cpu/thread_scratch.h"

namespace llada {
namespace {

constexpr int kColumns = kAttentionColumns;
constexpr int kTokens = 16;  // at a time, where nothing is packed
// A row of a head no longer than this is over before the hardware's prefetchers follow it, and is fetched a chunk of
// tokens ahead. Longer ones are read as fast from memory without, and faster from L3.
constexpr std::int64_t kShortRowBytes = 256;

// The rows that a tile works on (see with_rows).
std::int64_t worked_rows(std::int64_t rows) { return rows <= 2 ? rows : (rows + 3) / 4 * 4; }

}  // namespace

void AttentionWorker::run_heads(const AttentionItem& item, const AttentionItem* following) {
  if (item.first_block == item.end_block) return;
  block_ = find_block(item, item.first_block);
  next_ = {};
  if (following != nullptr && following->first_block < following->end_block) {
    next_ = find_block(*following, following->first_block);
  }
  find_head_tiles(item);
  if (head_tiles_.empty()) return;
  int first = kAttentionBlock, end = 0;
  for (const HeadTile& tile : head_tiles_) {
    first = std::min(first, tile.args.first_key);
    end = std::max(end, tile.args.end_key);
  }
  const bool whole_panels = args_.k.size(3) % kColumns == 0;
  const bool keys_lie = whole_panels && kernel_.score_rows != nullptr;
  const int key_tokens = keys_lie ? kTokens : kColumns, value_tokens = whole_panels ? kTokens : kColumns;
  const std::int64_t row_bytes = (item.end_key_head - item.key_head) * depth_bytes_;
  const std::int64_t key_step = args_.k.stride(1) * dtype_bytes(args_.k.dtype);
  const std::int64_t value_step = args_.v.stride(1) * dtype_bytes(args_.v.dtype);
  for (int key = first; key < end; key += key_tokens) {
    if (key + key_tokens < end) {
      fetch_ = {block_.keys, key_step, row_bytes, key + key_tokens, std::min(key + 2 * key_tokens, block_.count)};
    } else {
      fetch_ = {block_.values, value_step, row_bytes, first, std::min(first + value_tokens, block_.count)};
    }
    score_heads(key, key_tokens, keys_lie);
  }
  for (const HeadTile& tile : head_tiles_) kernel_.weigh(tile.args);
  for (int key = first; key < end; key += value_tokens) {
    if (key + value_tokens < end) {
      fetch_ = {block_.values, value_step, row_bytes, key + value_tokens,
                std::min(key + 2 * value_tokens, block_.count)};
    } else {
      fetch_ = {next_.keys, key_step, row_bytes, 0, std::min(key_tokens, next_.count)};
    }
    add_head_values(key, value_tokens, whole_panels);
  }
}

// The tiles of the item's heads that see a key of the block, each with scratch of its own.
void AttentionWorker::find_head_tiles(const AttentionItem& item) {
  const std::int64_t heads = item.end_key_head - item.key_head;
  const std::int64_t rows = worked_rows(std::min<std::int64_t>(item.rows(), kernel_.rows));
  const std::int64_t tiles = (item.rows() + kernel_.rows - 1) / kernel_.rows, count = heads * tiles;
  const std::int64_t scores_size = rows * kAttentionBlock, queries_size = rows * kQueryStride;
  const std::int64_t weights_size = scores_size / lane_values(args_.q.dtype);
  auto* queries = thread_scratch<struct HeadQueries, std::uint32_t>(count * queries_size);
  auto* scores = thread_scratch<struct HeadScores, float>(count * scores_size);
  auto* weights = thread_scratch<struct HeadWeights, std::uint32_t>(count * weights_size);
  const std::int64_t masks_size = args_.mask.defined() ? rows * kAttentionMaskWords : 0;
  auto* masks = thread_scratch<struct HeadMasks, std::uint32_t>(count * masks_size);
  head_tiles_.clear();
  AttentionItem one = item;
  for (one.key_head = item.key_head; one.key_head < item.end_key_head; ++one.key_head) {
    begin(one);
    for (std::int64_t row = 0; row < item.rows(); row += kernel_.rows) {
      place_tile(item.first_block, row, queries);
      tile_.sums = AttentionSums::kStart;
      tile_.scores = scores;
      tile_.weights = weights;
      mask_ = masks;
      if (find_range(row, item.first_block * kAttentionBlock)) {
        head_tiles_.push_back({tile_, one.key_head - item.key_head});
      }
      queries += queries_size;
      scores += scores_size;
      weights += weights_size;
      masks += masks_size;
    }
  }
}

// One of as many parts of what is to be fetched as there are tiles, in the order in which it lies.
void AttentionWorker::fetch_part(std::size_t part) const {
  const auto parts = static_cast<std::int64_t>(head_tiles_.size()), count = std::int64_t{fetch_.end} - fetch_.first;
  if (count <= 0 || depth_bytes_ > kShortRowBytes) return;
  const std::int64_t lines = (fetch_.bytes + 63) / 64, all = count * lines;
  const auto index = static_cast<std::int64_t>(part);
  std::int64_t line = all * index / parts;
  for (const std::int64_t end = all * (index + 1) / parts; line < end;) {
    const std::int64_t row = line / lines, within = line % lines, here = std::min(lines - within, end - line);
    const char* from = fetch_.source + (fetch_.first + row) * fetch_.step + within * 64;
    for (std::int64_t i = 0; i < here; ++i) __builtin_prefetch(from + i * 64);
    line += here;
  }
}

void AttentionWorker::score_heads(int key, int tokens, bool lie) {
  const std::int64_t bytes = dtype_bytes(args_.k.dtype);
  std::int64_t packed = -1;
  for (std::size_t i = 0; i < head_tiles_.size(); ++i) {
    const HeadTile& tile = head_tiles_[i];
    fetch_part(i);
    if (key < tile.args.first_key || key >= tile.args.end_key) continue;
    const char* source = block_.keys + (key * args_.k.stride(1) + tile.head * args_.k.stride(2)) * bytes;
    AttentionTileArgs args = tile.args;
    args.first_key = key;
    args.end_key = key + tokens;
    if (lie) {
      if (key >= block_.count) continue;  // scores that are masked
      kernel_.score_rows(args, {source, args_.k.stride(1) * bytes, block_.count - key});
      continue;
    }
    if (packed != tile.head) {
      pack_panel(args_.k.dtype, source, args_.k.stride(1), std::clamp(block_.count - key, 0, kColumns), args_.k.size(3),
                 keys_);
    }
    packed = tile.head;
    args.keys = keys_;
    kernel_.score(args);
  }
}

void AttentionWorker::add_head_values(int key, int tokens, bool lie) {
  const std::int64_t bytes = dtype_bytes(args_.v.dtype), values = lane_values(args_.v.dtype);
  std::int64_t packed = -1;
  for (std::size_t i = 0; i < head_tiles_.size(); ++i) {
    const HeadTile& tile = head_tiles_[i];
    fetch_part(i);
    if (key < tile.args.first_key || key >= tile.args.end_key) continue;
    const char* source = block_.values + (key * args_.v.stride(1) + tile.head * args_.v.stride(2)) * bytes;
    AttentionTileArgs args = tile.args;
    args.sums = key == tile.args.first_key ? AttentionSums::kStart : AttentionSums::kAdd;
    args.first_key = key;
    args.end_key = key + tokens;
    if (lie) {
      kernel_.add_value_rows(args, {source, args_.v.stride(1) * bytes, block_.count - key});
      continue;
    }
    args.value_lanes = static_cast<int>(kColumns / values);
    if (packed != tile.head) {
      kernel_.pack_values({source, args_.v.stride(1), std::clamp(block_.count - key, 0, kColumns), kColumns,
                           static_cast<int>(args_.v.size(3)), values_, args.value_lanes});
    }
    packed = tile.head;
    args.values = values_;
    kernel_.add_values(args);
  }
}

}  // namespace llada

#include "attention/attention_worker.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/exp2_coefficients.h"
#include "cpu/panel_gemm.h"
#include "cpu/thread_scratch.h"

namespace llada {
namespace {

constexpr int kColumns = kAttentionColumns;
constexpr std::int64_t kSpreadTiles = 4;  // fewer tiles than these are too short to hide the next block's fetch

std::int64_t whole_panels(std::int64_t count) { return (count + kColumns - 1) / kColumns * kColumns; }

char* element(const ArrayView& view, std::int64_t b, std::int64_t row, std::int64_t head) {
  const std::int64_t offset = b * view.stride(0) + row * view.stride(1) + head * view.stride(2);
  return view.as<char>() + offset * dtype_bytes(view.dtype);
}

template <int Write>
void prefetch(const char* row, std::int64_t bytes) {
  for (std::int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(row + line, Write, 2);
}

}  // namespace

std::int64_t attention_state_size(const AttentionArgs& args) { return whole_panels(args.q.size(3)) + kStateExtra; }

AttentionWorker::AttentionWorker(const AttentionArgs& args, const AttentionPlan& plan, const AttentionKernel& kernel,
                                 float* states)
    : args_(args),
      plan_(plan),
      kernel_(kernel),
      partial_(states),
      group_(args.q.size(2) / args.k.size(2)),
      depth_bytes_(args.q.size(3) * dtype_bytes(args.q.dtype)),
      state_size_(attention_state_size(args)),
      columns_(static_cast<int>(whole_panels(args.q.size(3)))) {
  const std::int64_t depth_lanes = lane_count(args.q.dtype, args.q.size(3));
  const std::int64_t rows = plan.item_rows + kAttentionRows, values = lane_values(args.q.dtype);
  queries_ = thread_scratch<struct Queries, std::uint32_t>(rows * kQueryStride);
  keys_ = thread_scratch<struct Keys, std::uint32_t>(kAttentionBlock * depth_lanes);
  values_ = thread_scratch<struct Values, std::uint32_t>(kAttentionBlock / values * columns_);
  states_ = thread_scratch<struct States, float>(rows * state_size_);
  rows_ = thread_scratch<struct Rows, Row>(rows);
  mask_ = thread_scratch<struct Mask, std::uint32_t>(kAttentionRows * kAttentionMaskWords);
  tile_.value_lanes = static_cast<int>(kAttentionBlock / values);
  tile_.depth_lanes = static_cast<int>(depth_lanes);
  tile_.depth_panels = columns_ / kColumns;
  const double depth = static_cast<double>(args.q.size(3));
  // A scale of zero leaves the masked keys' minus infinity alone when it is not quite zero.
  const double scale = args.scale.value_or(1.0 / std::sqrt(depth)) * kLog2E, least = std::numeric_limits<float>::min();
  tile_.scale_log2 = static_cast<float>(std::max(std::fabs(scale), least));
  negative_scale_ = scale < 0.0;
  tile_.scores = thread_scratch<struct Scores, float>(kAttentionRows * kAttentionBlock);
  tile_.weights = thread_scratch<struct Weights, std::uint32_t>(kAttentionRows * kAttentionBlock / values);
}

void AttentionWorker::run(const AttentionItem& item, const AttentionItem* following) {
  if (plan_.few) return run_heads(item, following);
  begin(item);
  tiles_ = (item.rows() + kernel_.rows - 1) / kernel_.rows;
  for (std::int64_t block = item.first_block; block < item.end_block; ++block) {
    block_ = find_block(item, block);
    next_ = {};
    if (block + 1 < item.end_block) {
      next_ = find_block(item, block + 1);
    } else if (following != nullptr && following->first_block < following->end_block) {
      next_ = find_block(*following, following->first_block);
    }
    packed_ = false;
    for (std::int64_t tile = 0; tile < tiles_; ++tile) run_tile(block, tile);
  }
  if (item.first_block < item.end_block) return;
  states_[columns_ + 1] = 0.0f;
  for (std::int64_t row = 0; row < item.rows(); ++row) write(row, states_);
}

// The rows of a tile, their queries and states.
void AttentionWorker::place_tile(std::int64_t block, std::int64_t row, std::uint32_t* queries) {
  tile_.num_rows = static_cast<int>(std::min<std::int64_t>(kernel_.rows, item_->rows() - row));
  tile_.queries = queries;
  if (plan_.cut_keys) {
    tile_.states = partial_state(row, block);
    tile_.state_stride = sequence_->blocks() * state_size_;
  } else {
    tile_.states = states_ + row * state_size_;
    tile_.state_stride = state_size_;
  }
  if (block > item_->first_block) return;
  load_queries(row, queries);
  for (int m = 0; m < tile_.num_rows; ++m) tile_.states[m * tile_.state_stride + columns_ + 1] = 0.0f;
}

void AttentionWorker::run_tile(std::int64_t block, std::int64_t tile) {
  const bool last = block + 1 == item_->end_block && !plan_.cut_keys;
  const std::int64_t row = tile * kernel_.rows;
  place_tile(block, row, queries_ + row * kQueryStride);
  for (int m = 0; m < tile_.num_rows && last; ++m) prefetch<1>(rows_[row + m].out, depth_bytes_);
  prefetch_next(tile);

  if (find_range(row, block * kAttentionBlock)) {
    bool fresh = true;
    for (int m = 0; m < tile_.num_rows; ++m) fresh &= tile_.states[m * tile_.state_stride + columns_ + 1] == 0.0f;
    tile_.sums = fresh ? AttentionSums::kStart : AttentionSums::kFold;
    pack_block();
    tile_.keys = keys_ + tile_.first_key * tile_.depth_lanes;
    tile_.values = values_ + tile_.first_key / lane_values(args_.k.dtype) * kColumns;
    kernel_.tile(tile_);
  }
  for (int m = 0; m < tile_.num_rows && last; ++m) write(row + m, tile_.states + m * tile_.state_stride);
}

void AttentionWorker::combine(const AttentionItem& item) {
  begin(item);
  for (std::int64_t row = 0; row < item.rows(); ++row) {
    float* total = nullptr;
    for (std::int64_t block = 0; block < sequence_->blocks(); ++block) {
      float* state = partial_state(row, block);
      if (state[columns_ + 1] == 0.0f) continue;  // no key seen: nothing else in it is written
      if (total != nullptr) kernel_.fold(total, state, columns_);
      total = total == nullptr ? state : total;
    }
    states_[columns_ + 1] = 0.0f;
    write(row, total == nullptr ? states_ : total);
  }
}

float* AttentionWorker::partial_state(std::int64_t row, std::int64_t block) const {
  const std::int64_t whole_row = item_->key_head * group_ * sequence_->queries() + item_->first_row + row;
  return partial_ + (sequence_->first_state + whole_row * sequence_->blocks() + block) * state_size_;
}

void AttentionWorker::begin(const AttentionItem& item) {
  item_ = &item;
  sequence_ = &plan_.sequences[item.sequence];
  const std::int64_t queries = sequence_->queries(), bytes = dtype_bytes(args_.q.dtype);
  const std::int64_t source_step = args_.q.stride(1) * bytes, out_step = args_.out.stride(1) * bytes;
  std::int64_t head = item.key_head * group_ + item.first_row / queries, query = item.first_row % queries;
  for (std::int64_t row = 0; row < item.rows(); ++head, query = 0) {
    const std::int64_t first = sequence_->first_query + query;
    const std::int64_t count = std::min(queries - query, item.rows() - row);
    const char* source = element(args_.q, sequence_->batch, first, head);
    char* out = element(args_.out, sequence_->batch, first, head);
    for (std::int64_t i = 0; i < count; ++i, ++row) {
      rows_[row] = {head, first + i, visible_keys(first + i), source + i * source_step, out + i * out_step};
    }
  }
}

AttentionWorker::Block AttentionWorker::find_block(const AttentionItem& item, std::int64_t block) const {
  const AttentionSequence& sequence = plan_.sequences[item.sequence];
  const std::int64_t first = block * kAttentionBlock, key = sequence.first_key + first;
  return {element(args_.k, sequence.batch, key, item.key_head), element(args_.v, sequence.batch, key, item.key_head),
          static_cast<int>(std::min<std::int64_t>(kAttentionBlock, sequence.keys() - first))};
}

void AttentionWorker::load_queries(std::int64_t row, std::uint32_t* target) const {
  const std::int64_t end = std::min<std::int64_t>(row + kernel_.rows, item_->rows());
  const std::uint32_t sign = args_.q.dtype == DType::kBFloat16 ? 0x80008000 : 0x80000000;
  for (; row < end; ++row, target += kQueryStride) {
    target[tile_.depth_lanes - 1] = 0;  // an odd depth leaves half a lane
    std::memcpy(target, rows_[row].source, depth_bytes_);
    for (int lane = 0; lane < tile_.depth_lanes && negative_scale_; ++lane) target[lane] ^= sign;
    if (row + kernel_.rows < item_->rows()) prefetch<0>(rows_[row + kernel_.rows].source, depth_bytes_);
  }
}

// The part of the next block's keys and values that falls to a tile.
void AttentionWorker::prefetch_next(std::int64_t tile) const {
  if (tiles_ < kSpreadTiles) return;
  const std::int64_t bytes = dtype_bytes(args_.k.dtype);
  const std::int64_t end = next_.count * (tile + 1) / tiles_;
  for (std::int64_t key = next_.count * tile / tiles_; key < end; ++key) {
    prefetch<0>(next_.keys + key * args_.k.stride(1) * bytes, depth_bytes_);
    prefetch<0>(next_.values + key * args_.v.stride(1) * bytes, depth_bytes_);
  }
}

// The panel of keys and values from `key` on, or the next block's first. With few tiles the fetch has nothing but the
// packing of the panel before it to hide behind.
void AttentionWorker::prefetch_panel(int key) const {
  const Block& block = key < block_.count ? block_ : next_;
  const std::int64_t bytes = dtype_bytes(args_.k.dtype);
  if (key >= block_.count) key = 0;
  for (const int end = std::min(key + kColumns, block.count); key < end; ++key) {
    prefetch<0>(block.keys + key * args_.k.stride(1) * bytes, depth_bytes_);
    prefetch<0>(block.values + key * args_.v.stride(1) * bytes, depth_bytes_);
  }
}

void AttentionWorker::pack_block() {
  if (packed_) return;
  packed_ = true;
  const DType dtype = args_.k.dtype;
  const std::int64_t bytes = dtype_bytes(dtype), key_stride = args_.k.stride(1), value_stride = args_.v.stride(1);
  for (int key = 0; key < block_.count; key += kColumns) {
    const int count = std::min(kColumns, block_.count - key);
    if (tiles_ < kSpreadTiles) prefetch_panel(key + kColumns);
    pack_panel(dtype, block_.keys + key * key_stride * bytes, key_stride, count, args_.k.size(3),
               keys_ + key * tile_.depth_lanes);
    kernel_.pack_values({block_.values + key * value_stride * bytes, value_stride, count, kColumns,
                         static_cast<int>(args_.k.size(3)), values_ + key / lane_values(dtype) * kColumns,
                         tile_.value_lanes});
  }
}

// How many keys of the sequence a query sees under the block-causal rule: all up to the end of its own block.
std::int64_t AttentionWorker::visible_keys(std::int64_t query) const {
  std::int64_t end = sequence_->end_key;
  if (args_.block_size > 0) {
    const std::int64_t position = args_.k.size(1) - args_.q.size(1) + query;
    end = position < 0 ? 0 : std::min(end, (position / args_.block_size + 1) * args_.block_size);
  }
  return std::max<std::int64_t>(end - sequence_->first_key, 0);
}

// What the tile's rows see of the block that starts at key `first`; false when that is nothing.
bool AttentionWorker::find_range(std::int64_t row, std::int64_t first) {
  int longest = 0;
  for (int m = 0; m < tile_.num_rows; ++m) {
    tile_.row_keys[m] = static_cast<int>(std::clamp<std::int64_t>(rows_[row + m].keys - first, 0, block_.count));
    longest = std::max(longest, tile_.row_keys[m]);
  }
  tile_.first_key = 0;
  tile_.end_key = static_cast<int>(whole_panels(longest));
  if (!args_.mask.defined() || longest == 0) return longest > 0;

  static_assert(kColumns == 32);  // a word a panel
  const AttentionMaskSeen seen = gather_mask(row, first, longest);
  tile_.mask = seen.all ? nullptr : mask_;
  while (tile_.first_key < tile_.end_key && seen.any[tile_.first_key / 32] == 0) tile_.first_key += kColumns;
  while (tile_.first_key < tile_.end_key && seen.any[tile_.end_key / 32 - 1] == 0) tile_.end_key -= kColumns;
  return tile_.first_key < tile_.end_key;
}

const std::uint8_t* AttentionWorker::mask_row(std::int64_t row, std::int64_t first) const {
  const ArrayView& mask = args_.mask;
  const Row& at = rows_[row];
  return mask.as<std::uint8_t>() + (mask.size(0) == 1 ? 0 : sequence_->batch * mask.stride(0)) +
         (mask.size(1) == 1 ? 0 : at.head * mask.stride(1)) + at.query * mask.stride(2) +
         (sequence_->first_key + first) * mask.stride(3);
}

// The mask of the tile's rows, `count` keys from `first`.
AttentionMaskSeen AttentionWorker::gather_mask(std::int64_t row, std::int64_t first, int count) {
  const std::int64_t key_stride = args_.mask.stride(3);
  const std::uint8_t* rows[kAttentionRows];
  std::uint8_t bytes[kAttentionRows][kAttentionBlock];
  for (int m = 0; m < tile_.num_rows; ++m) {
    rows[m] = mask_row(row + m, first);
    if (key_stride == 1) continue;
    for (int key = 0; key < count; ++key) bytes[m][key] = rows[m][key * key_stride];
    rows[m] = bytes[m];
  }
  const AttentionMaskSeen seen = kernel_.read_mask(rows, tile_.num_rows, count, mask_);
  // The next tile's rows: where they are thousands of keys apart, no hardware prefetcher follows.
  const std::int64_t end = std::min<std::int64_t>(row + 2 * kernel_.rows, item_->rows());
  for (std::int64_t next = row + kernel_.rows; next < end && key_stride == 1; ++next) {
    prefetch<0>(reinterpret_cast<const char*>(mask_row(next, first)), count);
  }
  return seen;
}

void AttentionWorker::write(std::int64_t row, const float* state) const {
  kernel_.write(state, columns_, static_cast<int>(args_.q.size(3)), rows_[row].out);
}

}  // namespace llada

// Work is cut into items: one block of query rows of one head of one sequence, those that share keys and values side
// by side. A thread packs the keys and values it needs once and keeps them while its items share them.
#include "attention/attention.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "attention/attention_pack.h"
#include "attention/attention_tile.h"
#include "common/check.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "cpu/exp2_coefficients.h"
#include "cpu/panel_gemm.h"
#include "cpu/scratch.h"

namespace llada {
namespace {

constexpr const char* kOp = "attention";
constexpr std::int64_t kItemRows = 48;  // query rows of one item

std::int64_t index_at(const ArrayView& view, std::int64_t row, std::int64_t column) {
  const std::int64_t offset = row * view.stride(0) + (view.rank > 1 ? column * view.stride(1) : 0);
  return view.dtype == DType::kInt64 ? view.as<std::int64_t>()[offset] : view.as<std::int32_t>()[offset];
}

void check_tensors(const AttentionArgs& args) {
  Check(kOp, "q", args.q).cpu().dtype({DType::kFloat32, DType::kBFloat16});
  Check(kOp, "q", args.q).shape({kAnySize, kAnySize, kAnySize, kAnySize}).last_dim_contiguous();
  const std::int64_t batch = args.q.size(0), heads = args.q.size(2), depth = args.q.size(3);
  Check(kOp, "k", args.k).cpu().dtype({args.q.dtype}).shape({batch, kAnySize, kAnySize, depth}).last_dim_contiguous();
  const std::int64_t keys = args.k.size(1), key_heads = args.k.size(2);
  Check(kOp, "v", args.v).cpu().dtype({args.q.dtype}).shape({batch, keys, key_heads, depth}).last_dim_contiguous();
  Check(kOp, "out", args.out).cpu().dtype({args.q.dtype}).shape({batch, args.q.size(1), heads, depth});
  Check(kOp, "out", args.out).last_dim_contiguous();
  require(kOp, "q", depth >= 1 && depth <= kMaxHeadSize, "of head size 1 to 256", std::to_string(depth));
  require(kOp, "k", heads == 0 || (key_heads > 0 && heads % key_heads == 0),
          "of a number of heads that divides q's " + std::to_string(heads), std::to_string(key_heads));
}

void check_key_range(const AttentionArgs& args) {
  const std::int64_t batch = args.q.size(0), keys = args.k.size(1);
  Check(kOp, "key_range", args.key_range).cpu().dtype({DType::kInt32, DType::kInt64}).shape({batch, 2});
  for (std::int64_t b = 0; b < batch; ++b) {
    for (int side = 0; side < 2; ++side) {
      const std::int64_t value = index_at(args.key_range, b, side);
      require(kOp, "key_range", value >= 0 && value <= keys, "within 0 and " + std::to_string(keys),
              std::to_string(value));
    }
  }
}

void check_cu_seqlens(const AttentionArgs& args) {
  const ArrayView& lengths = args.cu_seqlens;
  Check(kOp, "cu_seqlens", lengths).cpu().dtype({DType::kInt32, DType::kInt64}).shape({kAnySize});
  const std::int64_t batch = args.q.size(0), queries = args.q.size(1), keys = args.k.size(1);
  require(kOp, "q", batch == 1, "of batch size 1 with cu_seqlens", std::to_string(batch));
  require(kOp, "k", keys == queries, "as long as q with cu_seqlens", std::to_string(keys));
  require(kOp, "cu_seqlens", lengths.size(0) >= 1, "of at least one entry", "none");
  std::int64_t previous = 0;
  for (std::int64_t i = 0; i < lengths.size(0); ++i) {
    const std::int64_t value = index_at(lengths, i, 0);
    require(kOp, "cu_seqlens", i == 0 ? value == 0 : value >= previous, "non-decreasing from 0", std::to_string(value));
    previous = value;
  }
  require(kOp, "cu_seqlens", previous == queries, "ending at " + std::to_string(queries), std::to_string(previous));
}

void check(const AttentionArgs& args) {
  check_tensors(args);
  if (args.mask.defined()) {
    const ArrayView& mask = args.mask;
    Check(kOp, "mask", mask).cpu().dtype({DType::kBool, DType::kUInt8});
    Check(kOp, "mask", mask).shape({kAnySize, kAnySize, args.q.size(1), args.k.size(1)});
    require(
        kOp, "mask",
        (mask.size(0) == 1 || mask.size(0) == args.q.size(0)) && (mask.size(1) == 1 || mask.size(1) == args.q.size(2)),
        "broadcastable over batch and heads", shape_text(mask));
  }
  if (args.key_range.defined()) check_key_range(args);
  if (args.cu_seqlens.defined()) check_cu_seqlens(args);
  require(kOp, "block_size", args.block_size >= 0, "positive", std::to_string(args.block_size));
}

// Queries that share a valid key range: one row of the batch, or one packed sequence.
struct Sequence {
  std::int64_t batch;
  std::int64_t first_query, end_query;
  std::int64_t first_key, end_key;
};

std::vector<Sequence> find_sequences(const AttentionArgs& args) {
  const std::int64_t queries = args.q.size(1), keys = args.k.size(1);
  std::vector<Sequence> sequences;
  if (args.cu_seqlens.defined()) {
    for (std::int64_t i = 0; i + 1 < args.cu_seqlens.size(0); ++i) {
      const std::int64_t first = index_at(args.cu_seqlens, i, 0), end = index_at(args.cu_seqlens, i + 1, 0);
      if (first < end) sequences.push_back({0, first, end, first, end});
    }
  } else {
    for (std::int64_t b = 0; b < args.q.size(0); ++b) sequences.push_back({b, 0, queries, 0, keys});
  }
  if (args.key_range.defined()) {
    for (Sequence& sequence : sequences) {
      sequence.first_key = std::max(sequence.first_key, index_at(args.key_range, sequence.batch, 0));
      sequence.end_key = std::min(sequence.end_key, index_at(args.key_range, sequence.batch, 1));
      sequence.end_key = std::max(sequence.end_key, sequence.first_key);
    }
  }
  return sequences;
}

struct Item {
  std::int64_t sequence, head, first_query, end_query;
};

std::vector<Item> find_items(const AttentionArgs& args, const std::vector<Sequence>& sequences) {
  std::vector<Item> items;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    for (std::int64_t head = 0; head < args.q.size(2); ++head) {
      for (std::int64_t row = sequences[s].first_query; row < sequences[s].end_query; row += kItemRows) {
        const std::int64_t end = std::min(row + kItemRows, sequences[s].end_query);
        items.push_back({static_cast<std::int64_t>(s), head, row, end});
      }
    }
  }
  return items;
}

void* element(const ArrayView& view, std::int64_t b, std::int64_t row, std::int64_t head) {
  const std::int64_t offset = b * view.stride(0) + row * view.stride(1) + head * view.stride(2);
  return view.as<char>() + offset * dtype_bytes(view.dtype);
}

// One thread's packed keys and values, and the tile's scratch.
class Worker {
 public:
  Worker(const AttentionArgs& args, const std::vector<Sequence>& sequences, AttentionKernel kernel,
         std::int64_t longest)
      : args_(args),
        sequences_(sequences),
        kernel_(kernel),
        depth_lanes_(lane_count(args.q.dtype, args.q.size(3))),
        depth_panels_((args.q.size(3) + kAttentionColumns - 1) / kAttentionColumns),
        keys_(padded(longest) * depth_lanes_),
        values_(padded(longest) / lane_values(args.q.dtype) * depth_panels_ * kAttentionColumns),
        query_lanes_(kAttentionMaxRows * depth_lanes_),
        scores_(kAttentionMaxRows * kAttentionKeyBlock),
        weights_(kAttentionMaxRows * kAttentionKeyBlock),
        sums_(kAttentionMaxRows * depth_panels_ * kAttentionColumns) {}

  void run(const Item& item) {
    const Sequence& sequence = sequences_[item.sequence];
    const std::int64_t key_head = item.head / (args_.q.size(2) / args_.k.size(2));
    if (item.sequence != packed_sequence_ || key_head != packed_head_) {
      pack(sequence, key_head);
      packed_sequence_ = item.sequence;
      packed_head_ = key_head;
    }
    for (std::int64_t row = item.first_query; row < item.end_query; row += kernel_.rows) {
      tile(sequence, item.head, row, static_cast<int>(std::min<std::int64_t>(kernel_.rows, item.end_query - row)));
    }
  }

 private:
  static std::int64_t padded(std::int64_t keys) {
    return (keys + kAttentionColumns - 1) / kAttentionColumns * kAttentionColumns;
  }

  void pack(const Sequence& sequence, std::int64_t key_head) {
    const std::int64_t count = sequence.end_key - sequence.first_key, depth = args_.q.size(3);
    key_lanes_ = padded(count) / lane_values(args_.q.dtype);
    if (count == 0) return;
    pack_keys(args_.k.dtype, element(args_.k, sequence.batch, sequence.first_key, key_head), args_.k.stride(1), count,
              depth, keys_.data());
    pack_values(args_.v.dtype, element(args_.v, sequence.batch, sequence.first_key, key_head), args_.v.stride(1), count,
                depth, key_lanes_, values_.data());
  }

  // How many keys of the sequence a query sees under the block-causal rule: all up to the end of its own block.
  std::int64_t visible_keys(const Sequence& sequence, std::int64_t query) const {
    std::int64_t end = sequence.end_key;
    if (args_.block_size > 0) {
      const std::int64_t position = args_.k.size(1) - args_.q.size(1) + query;
      end = position < 0 ? 0 : std::min(end, (position / args_.block_size + 1) * args_.block_size);
    }
    return std::max<std::int64_t>(end - sequence.first_key, 0);
  }

  void tile(const Sequence& sequence, std::int64_t head, std::int64_t row, int rows) const {
    AttentionTileArgs tile{};
    tile.query = element(args_.q, sequence.batch, row, head);
    tile.query_stride = args_.q.stride(1);
    tile.out = element(args_.out, sequence.batch, row, head);
    tile.out_stride = args_.out.stride(1);
    tile.num_rows = rows;
    tile.depth = static_cast<int>(args_.q.size(3));
    tile.depth_lanes = static_cast<int>(depth_lanes_);
    tile.depth_panels = static_cast<int>(depth_panels_);
    tile.keys = keys_.data();
    tile.values = values_.data();
    tile.key_lanes = key_lanes_;
    for (int m = 0; m < rows; ++m) tile.row_keys[m] = visible_keys(sequence, row + m);
    if (args_.mask.defined()) {
      const ArrayView& mask = args_.mask;
      tile.mask = mask.as<std::uint8_t>() + (mask.size(0) == 1 ? 0 : sequence.batch * mask.stride(0)) +
                  (mask.size(1) == 1 ? 0 : head * mask.stride(1)) + row * mask.stride(2) +
                  sequence.first_key * mask.stride(3);
      tile.mask_row_stride = mask.stride(2);
      tile.mask_key_stride = mask.stride(3);
    }
    const double scale = args_.scale.value_or(1.0 / std::sqrt(static_cast<double>(tile.depth)));
    tile.scale_log2 = static_cast<float>(scale * kLog2E);
    tile.query_lanes = query_lanes_.data();
    tile.scores = scores_.data();
    tile.weights = weights_.data();
    tile.sums = sums_.data();
    kernel_.run(tile);
  }

  const AttentionArgs& args_;
  const std::vector<Sequence>& sequences_;
  AttentionKernel kernel_;
  std::int64_t depth_lanes_, depth_panels_;
  std::int64_t key_lanes_ = 0;
  std::int64_t packed_sequence_ = -1, packed_head_ = -1;
  Scratch<std::uint32_t> keys_, values_, query_lanes_;
  Scratch<float> scores_;
  Scratch<std::uint32_t> weights_;
  Scratch<float> sums_;
};

AttentionKernel select_kernel(DType dtype, Isa isa) {
  const bool bf16 = dtype == DType::kBFloat16;
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return attention_kernel_avx512(bf16);
  if (isa == Isa::kAvx2) return attention_kernel_avx2(bf16);
#endif
  static_cast<void>(isa);
  return attention_kernel_portable(bf16);
}

}  // namespace

void attention(const AttentionArgs& args) {
  check(args);
  const std::vector<Sequence> sequences = find_sequences(args);
  const std::vector<Item> items = find_items(args, sequences);
  const AttentionKernel kernel = select_kernel(args.q.dtype, active_isa());
  std::int64_t longest = 0;
  for (const Sequence& sequence : sequences) longest = std::max(longest, sequence.end_key - sequence.first_key);
  const std::int64_t item_rows = std::min(kItemRows, args.q.size(1));
  const std::int64_t item_operations = item_rows * longest * (2 * args.q.size(3) / kProductsPerOperation + 1);
  parallel_for(0, static_cast<std::int64_t>(items.size()), grain_of(item_operations),
               [&](std::int64_t begin, std::int64_t end) {
                 Worker worker(args, sequences, kernel, longest);
                 for (std::int64_t i = begin; i < end; ++i) worker.run(items[i]);
               });
}

}  // namespace llada

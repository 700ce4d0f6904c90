#include "attention/attention_plan.h"

#include <algorithm>

#include "attention/attention_tile.h"
#include "common/parallel.h"

namespace llada {
namespace {

// A block is packed once per item: at the least 4 tiles share it, at the most as many as keep the states in L2.
constexpr std::int64_t kFewestRows = 48;
constexpr std::int64_t kMostRows = 1056;
constexpr std::int64_t kItemsPerThread = 4;
// Up to so many rows a call waits for keys and values rather than for products: one tile.
constexpr std::int64_t kFewRows = kAttentionRows;
// Of a token's heads that one item reads at the least. With more rows an item takes longer: rather more items, then.
constexpr std::int64_t kLeastRowBytes = 2048, kLeastRowBytesOfMany = 1024, kManyRows = 5;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

bool token_major(const ArrayView& view) { return view.stride(2) < view.stride(1); }

std::vector<AttentionSequence> find_sequences(const AttentionArgs& args) {
  const std::int64_t queries = args.q.size(1), keys = args.k.size(1);
  std::vector<AttentionSequence> sequences;
  if (args.cu_seqlens.defined()) {
    for (std::int64_t i = 0; i + 1 < args.cu_seqlens.size(0); ++i) {
      const std::int64_t first = index_at(args.cu_seqlens, i), end = index_at(args.cu_seqlens, i + 1);
      if (first < end) sequences.push_back({0, first, end, first, end});
    }
  } else if (queries > 0) {
    for (std::int64_t b = 0; b < args.q.size(0); ++b) sequences.push_back({b, 0, queries, 0, keys});
  }
  if (args.key_range.defined()) {
    for (AttentionSequence& sequence : sequences) {
      sequence.first_key = std::max(sequence.first_key, index_at(args.key_range, sequence.batch, 0));
      sequence.end_key = std::min(sequence.end_key, index_at(args.key_range, sequence.batch, 1));
      sequence.end_key = std::max(sequence.end_key, sequence.first_key);
    }
  }
  return sequences;
}

// Memory delivers the heads of a token fastest together, but every thread needs items.
std::int64_t heads_of_item(const AttentionArgs& args, std::int64_t rows, std::int64_t blocks, int threads) {
  if (!token_major(args.k) || !token_major(args.v)) return 1;
  const std::int64_t wanted = threads > 1 ? threads * kItemsPerThread : 1;
  const std::int64_t least =
      divide_up(rows < kManyRows ? kLeastRowBytes : kLeastRowBytesOfMany, args.k.size(3) * dtype_bytes(args.k.dtype));
  std::int64_t heads = args.k.size(2);
  while (heads > least && blocks * divide_up(args.k.size(2), heads) < wanted) heads = divide_up(heads, 2);
  return heads;
}

}  // namespace

std::int64_t index_at(const ArrayView& view, std::int64_t row, std::int64_t column) {
  const std::int64_t offset = row * view.stride(0) + (view.rank > 1 ? column * view.stride(1) : 0);
  return view.dtype == DType::kInt64 ? view.as<std::int64_t>()[offset] : view.as<std::int32_t>()[offset];
}

std::int64_t AttentionSequence::blocks() const { return divide_up(keys(), kAttentionBlock); }

AttentionPlan plan_attention(const AttentionArgs& args, int threads) {
  AttentionPlan plan;
  plan.sequences = find_sequences(args);
  const std::int64_t key_heads = args.k.size(2), group = key_heads == 0 ? 0 : args.q.size(2) / key_heads;
  std::int64_t rows = 0, longest = 0, operations = 0, blocks = 0;
  for (const AttentionSequence& sequence : plan.sequences) {
    rows += key_heads * group * sequence.queries();
    blocks += key_heads * sequence.blocks();
    longest = std::max(longest, group * sequence.queries());
    operations += group * sequence.queries() * key_heads * sequence.keys();
  }
  operations *= 2 * args.q.size(3) / kProductsPerOperation + 1;
  plan.threads = static_cast<int>(std::clamp<std::int64_t>(divide_up(operations, grain_of(1)), 1, threads));
  const std::int64_t wanted = plan.threads > 1 ? plan.threads * kItemsPerThread : 1;
  const std::int64_t even = divide_up(divide_up(rows, wanted), kAttentionRows) * kAttentionRows;
  plan.item_rows = std::min(longest, std::clamp(even, kFewestRows, kMostRows));
  const auto sequences = static_cast<std::int64_t>(plan.sequences.size());
  const bool scarce = plan.threads > 1 && divide_up(rows, std::max<std::int64_t>(plan.item_rows, 1)) < plan.threads;
  plan.few = longest <= kFewRows;
  plan.cut_keys = plan.few || (blocks > sequences * key_heads && scarce);
  const std::int64_t item_heads =
      plan.few && key_heads > 0 ? heads_of_item(args, longest, blocks / key_heads, plan.threads) : 1;

  for (std::int64_t s = 0; s < sequences; ++s) {
    AttentionSequence& sequence = plan.sequences[s];
    const std::int64_t sequence_rows = group * sequence.queries(), sequence_blocks = sequence.blocks();
    sequence.first_state = plan.states;
    plan.states += plan.cut_keys ? key_heads * sequence_rows * sequence_blocks : 0;
    // Blocks outside: the heads of a block of keys lie side by side in memory.
    const std::int64_t cuts = plan.cut_keys ? std::max<std::int64_t>(sequence_blocks, 1) : 1;
    for (std::int64_t cut = 0; cut < cuts; ++cut) {
      const std::int64_t first_block = cut,
                         end_block = plan.cut_keys ? std::min(cut + 1, sequence_blocks) : sequence_blocks;
      for (std::int64_t head = 0; head < key_heads; head += item_heads) {
        const std::int64_t end_head = std::min(head + item_heads, key_heads);
        for (std::int64_t row = 0; row < sequence_rows; row += plan.item_rows) {
          const std::int64_t end_row = std::min(row + plan.item_rows, sequence_rows);
          plan.items.push_back({s, head, end_head, row, end_row, first_block, end_block});
        }
      }
    }
  }
  return plan;
}

}  // namespace llada

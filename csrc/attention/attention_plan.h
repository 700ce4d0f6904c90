// How a call is cut into work items: a pure function of the problem and the number of threads. No cut changes a bit of
// the result (see attention_tile.h), so all that counts here is that every thread has work and packs little.
//
// An item is a range of query rows of one sequence and one key/value head (grouped query heads share it, one after the
// other), against all key blocks: keys and values are packed once per block and item. Few rows against many keys are
// cut over key blocks instead: each item leaves the state of one block, and the states of a row are folded in order.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/attention.h"

namespace llada {

// An entry of key_range or cu_seqlens.
std::int64_t index_at(const ArrayView& view, std::int64_t row, std::int64_t column = 0);

// Queries that share a valid key range: one row of the batch, or one packed sequence.
struct AttentionSequence {
  std::int64_t batch;
  std::int64_t first_query, end_query;
  std::int64_t first_key, end_key;
  std::int64_t first_state = 0;  // of its partial states [key head][row][block], when cut over keys

  std::int64_t queries() const { return end_query - first_query; }
  std::int64_t keys() const { return end_key - first_key; }
  std::int64_t blocks() const;
};

struct AttentionItem {
  std::int64_t sequence;
  std::int64_t key_head, end_key_head;  // one, but where queries are few
  std::int64_t first_row, end_row;      // row = head within the group * queries + query
  std::int64_t first_block, end_block;

  std::int64_t rows() const { return end_row - first_row; }
};

struct AttentionPlan {
  std::vector<AttentionSequence> sequences;
  std::vector<AttentionItem> items;
  bool cut_keys = false;
  bool few = false;            // queries: cut over keys, and an item may stand for several key heads
  std::int64_t states = 0;     // partial ones, when cut over keys
  std::int64_t item_rows = 0;  // the most rows of an item
  int threads = 1;
};

AttentionPlan plan_attention(const AttentionArgs& args, int threads);

}  // namespace llada

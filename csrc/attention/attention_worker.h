// One thread's part of a call: packs the key blocks of its items and runs the tiles over them.
//
// Rows of one head lie a whole token apart, which no hardware prefetcher follows; from DRAM they would cost a tenth of
// the time. So while the tiles of a block run, the rows of the block that comes next are fetched into L2.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/attention.h"
#include "attention/attention_plan.h"
#include "attention/attention_tile.h"

namespace llada {

// Floats of one row's state.
std::int64_t attention_state_size(const AttentionArgs& args);

class AttentionWorker {
 public:
  // `states` holds the partial states of a plan cut over keys.
  AttentionWorker(const AttentionArgs& args, const AttentionPlan& plan, const AttentionKernel& kernel, float* states);

  // `following` is the item that this thread runs next, or null.
  void run(const AttentionItem& item, const AttentionItem* following);

  // Folds the partial states of the rows of an item (of any block) and writes the rows.
  void combine(const AttentionItem& item);

 private:
  // The keys and values of one block where the caller has them.
  struct Block {
    const char *keys, *values;
    int count;
  };
  struct HeadTile {
    AttentionTileArgs args;
    std::int64_t head;
  };
  // What to fetch while a chunk of tokens is worked on: rows [first, end) of `bytes` each.
  struct Fetch {
    const char* source;
    std::int64_t step, bytes;
    int first, end;
  };
  struct Row {
    std::int64_t head, query;
    std::int64_t keys;  // of the sequence that it sees, but for the caller's mask
    const char* source;
    char* out;
  };

  void begin(const AttentionItem& item);
  Block find_block(const AttentionItem& item, std::int64_t block) const;
  float* partial_state(std::int64_t row, std::int64_t block) const;
  void place_tile(std::int64_t block, std::int64_t row, std::uint32_t* queries);
  void run_tile(std::int64_t block, std::int64_t tile);
  // Of items of several heads (attention_heads.cpp).
  void run_heads(const AttentionItem& item, const AttentionItem* following);
  void find_head_tiles(const AttentionItem& item);
  void fetch_part(std::size_t part) const;
  void score_heads(int key, int tokens, bool lie);
  void add_head_values(int key, int tokens, bool lie);
  void load_queries(std::int64_t row, std::uint32_t* target) const;
  void prefetch_next(std::int64_t tile) const;
  void prefetch_panel(int key) const;
  void pack_block();
  std::int64_t visible_keys(std::int64_t query) const;
  bool find_range(std::int64_t row, std::int64_t first);
  const std::uint8_t* mask_row(std::int64_t row, std::int64_t first) const;
  AttentionMaskSeen gather_mask(std::int64_t row, std::int64_t first, int count);
  void write(std::int64_t row, const float* state) const;

  const AttentionArgs& args_;
  const AttentionPlan& plan_;
  const AttentionKernel& kernel_;
  float* partial_;
  std::int64_t group_, depth_bytes_, state_size_;
  int columns_;          // of a state's output
  bool negative_scale_;  // the queries are negated, so that a row's highest score is always its largest weight
  // Of this thread.
  std::uint32_t *queries_, *keys_, *values_;
  float* states_;
  Row* rows_;
  std::uint32_t* mask_;
  AttentionTileArgs tile_{};
  std::vector<HeadTile> head_tiles_;  // of an item of several heads
  Fetch fetch_{};
  // Of the item and block at hand.
  const AttentionItem* item_ = nullptr;
  const AttentionSequence* sequence_ = nullptr;
  std::int64_t tiles_ = 0;
  Block block_{}, next_{};
  bool packed_ = false;
};

}  // namespace llada

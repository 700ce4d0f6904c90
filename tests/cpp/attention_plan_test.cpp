// A plan of attention covers every (sequence, key head, row, block) exactly once, however many threads share it.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <tuple>
#include <vector>

#include "attention/attention_plan.h"
#include "attention/attention_tile.h"

namespace llada {
namespace {

void expect(bool condition, const char* what, int threads, std::int64_t queries, std::int64_t keys) {
  if (condition) return;
  std::fprintf(stderr, "%s: %d threads, %ld queries, %ld keys\n", what, threads, static_cast<long>(queries),
               static_cast<long>(keys));
  std::exit(1);
}

ArrayView tensor(std::int64_t batch, std::int64_t length, std::int64_t heads, std::int64_t depth) {
  ArrayView view;
  view.dtype = DType::kFloat32;
  view.rank = 4;
  view.sizes = {batch, length, heads, depth};
  view.strides = {length * heads * depth, heads * depth, depth, 1};
  return view;
}

void covers_all_once(int threads, std::int64_t batch, std::int64_t queries, std::int64_t keys, std::int64_t group) {
  constexpr std::int64_t kKeyHeads = 2, kDepth = 128;
  AttentionArgs args;
  args.q = tensor(batch, queries, group * kKeyHeads, kDepth);
  args.k = args.v = tensor(batch, keys, kKeyHeads, kDepth);
  const AttentionPlan plan = plan_attention(args, threads);
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>, int> seen;
  for (const AttentionItem& item : plan.items) {
    expect(item.rows() > 0 && item.rows() <= plan.item_rows, "rows of an item", threads, queries, keys);
    for (std::int64_t head = item.key_head; head < item.end_key_head; ++head) {
      for (std::int64_t row = item.first_row; row < item.end_row; ++row) {
        for (std::int64_t block = item.first_block; block < item.end_block; ++block) {
          ++seen[{item.sequence, head, row, block}];
        }
      }
    }
  }
  const std::int64_t blocks = (keys + kAttentionBlock - 1) / kAttentionBlock;
  const std::int64_t states = batch * kKeyHeads * group * queries * blocks;
  expect(static_cast<std::int64_t>(seen.size()) == states, "everything covered", threads, queries, keys);
  for (const auto& [place, times] : seen) expect(times == 1, "covered once", threads, queries, keys);
  expect(plan.states == (plan.cut_keys ? states : 0), "partial states", threads, queries, keys);
  expect(plan.threads >= 1 && plan.threads <= threads, "threads", threads, queries, keys);
}

}  // namespace
}  // namespace llada

int main() {
  for (const int threads : {1, 2, 3, 64}) {
    for (const std::int64_t queries : {1, 12, 13, 49, 1100}) {
      for (const std::int64_t keys : {1, 256, 257, 2048, 9000}) {
        llada::covers_all_once(threads, 1, queries, keys, 1);
        llada::covers_all_once(threads, 3, queries, keys, 2);
      }
    }
  }
  std::puts("attention plan: ok");
}

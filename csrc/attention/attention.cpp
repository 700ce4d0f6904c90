// The checked entry: the arguments, a plan of work items, and the threads that take them.
#include "attention/attention.h"

#include <algorithm>
#include <atomic>
#include <string>

#include "attention/attention_plan.h"
#include "attention/attention_tile.h"
#include "attention/attention_worker.h"
#include "common/check.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "cpu/thread_scratch.h"

namespace llada {
namespace {

constexpr const char* kOp = "attention";

void check_tensors(const AttentionArgs& args, const Backend& backend) {
  Check(kOp, "q", args.q).on(backend).floating(backend);
  Check(kOp, "q", args.q).shape({kAnySize, kAnySize, kAnySize, kAnySize}).last_dim_contiguous();
  const std::int64_t batch = args.q.size(0), heads = args.q.size(2), depth = args.q.size(3);
  Check(kOp, "k", args.k).on(backend).dtype({args.q.dtype}).shape({batch, kAnySize, kAnySize, depth});
  Check(kOp, "k", args.k).last_dim_contiguous();
  const std::int64_t keys = args.k.size(1), key_heads = args.k.size(2);
  Check(kOp, "v", args.v).on(backend).dtype({args.q.dtype}).shape({batch, keys, key_heads, depth});
  Check(kOp, "v", args.v).last_dim_contiguous();
  Check(kOp, "out", args.out).on(backend).dtype({args.q.dtype}).shape({batch, args.q.size(1), heads, depth});
  Check(kOp, "out", args.out).last_dim_contiguous();
  require(kOp, "q", depth >= 1 && depth <= kMaxHeadSize, "of head size 1 to 256", std::to_string(depth));
  require(kOp, "k", heads == 0 || (key_heads > 0 && heads % key_heads == 0),
          "of a number of heads that divides q's " + std::to_string(heads), std::to_string(key_heads));
}

void check_masks(const AttentionArgs& args, const Backend& backend) {
  const std::int64_t batch = args.q.size(0), queries = args.q.size(1), keys = args.k.size(1);
  if (args.mask.defined()) {
    const ArrayView& mask = args.mask;
    Check(kOp, "mask", mask).on(backend).dtype({DType::kBool, DType::kUInt8});
    Check(kOp, "mask", mask).shape({kAnySize, kAnySize, queries, keys});
    require(kOp, "mask",
            (mask.size(0) == 1 || mask.size(0) == batch) && (mask.size(1) == 1 || mask.size(1) == args.q.size(2)),
            "broadcastable over batch and heads", shape_text(mask));
  }
  if (args.key_range.defined()) {
    Check(kOp, "key_range", args.key_range).on(backend).dtype({DType::kInt32, DType::kInt64}).shape({batch, 2});
  }
  if (args.cu_seqlens.defined()) {
    const ArrayView& lengths = args.cu_seqlens;
    Check(kOp, "cu_seqlens", lengths).on(backend).dtype({DType::kInt32, DType::kInt64}).shape({kAnySize});
    require(kOp, "q", batch == 1, "of batch size 1 with cu_seqlens", std::to_string(batch));
    require(kOp, "k", keys == queries, "as long as q with cu_seqlens", std::to_string(keys));
    require(kOp, "cu_seqlens", lengths.size(0) >= 1, "of at least one entry", "none");
  }
  require(kOp, "block_size", args.block_size >= 0, "positive", std::to_string(args.block_size));
}

void check_key_range(const AttentionArgs& args) {
  const std::int64_t batch = args.q.size(0), keys = args.k.size(1);
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
  const std::int64_t queries = args.q.size(1);
  std::int64_t previous = 0;
  for (std::int64_t i = 0; i < lengths.size(0); ++i) {
    const std::int64_t value = index_at(lengths, i);
    require(kOp, "cu_seqlens", i == 0 ? value == 0 : value >= previous, "non-decreasing from 0", std::to_string(value));
    previous = value;
  }
  require(kOp, "cu_seqlens", previous == queries, "ending at " + std::to_string(queries), std::to_string(previous));
}

// The last step of a plan cut over keys: one item of each (sequence, head, rows) stands for all blocks.
void combine(const AttentionArgs& args, const AttentionPlan& plan, const AttentionKernel& kernel, float* states) {
  AttentionWorker worker(args, plan, kernel, states);
  for (AttentionItem item : plan.items) {
    if (item.first_block > 0) continue;
    for (; item.key_head < item.end_key_head; ++item.key_head) worker.combine(item);
  }
}

}  // namespace

AttentionKernel select_attention_kernel(DType dtype, Isa isa) {
  const bool bf16 = dtype == DType::kBFloat16;
#if defined(__x86_64__)
  if (isa == Isa::kAvx512Fma && bf16) return attention_kernel_bf16_avx512fma();
  if (is_avx512(isa)) return attention_kernel_avx512(bf16);
  if (isa == Isa::kAvx2) return attention_kernel_avx2(bf16);
#endif
  static_cast<void>(isa);
  return attention_kernel_portable(bf16);
}

void check_attention(const AttentionArgs& args, const Backend& backend) {
  check_tensors(args, backend);
  check_masks(args, backend);
}

void attention(const AttentionArgs& args) {
  check_attention(args, kCpuBackend);
  if (args.key_range.defined()) check_key_range(args);
  if (args.cu_seqlens.defined()) check_cu_seqlens(args);
  if (args.out.elements() == 0) return;
  const AttentionPlan plan = plan_attention(args, num_threads());
  const AttentionKernel kernel = select_attention_kernel(args.q.dtype, active_isa());
  float* states = nullptr;
  if (plan.cut_keys) states = thread_scratch<struct PartialStates, float>(plan.states * attention_state_size(args));

  // Items are taken in turn, not dealt out: those of a mask's early rows are shorter, and a core may be shared. The one
  // that follows is taken ahead, so that its keys can be fetched; but short items of few queries are only guessed: a
  // thread that starts late would keep its second one from the thread that is done.
  std::atomic<std::int64_t> next{0};
  const auto count = static_cast<std::int64_t>(plan.items.size());
  parallel_for(0, plan.threads, 1, [&](std::int64_t, std::int64_t) {
    AttentionWorker worker(args, plan, kernel, states);
    for (std::int64_t item = next++, following; item < count; item = plan.few ? next++ : following) {
      following = plan.few ? next.load(std::memory_order_relaxed) : next++;
      worker.run(plan.items[item], following < count ? &plan.items[following] : nullptr);
    }
  });
  if (plan.cut_keys) combine(args, plan, kernel, states);
}

}  // namespace llada

// Every op on the core's own pool: several threads give the bits of one, alone and while other threads call as well and
// the size of the pool changes. In a ThreadSanitizer build (tests/sanitize.sh) this is the search for data races.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "arrays.h"
#include "attention/attention.h"
#include "attention/attention_plan.h"
#include "attention_layer/attention_layer.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "expert_layer/expert_layer.h"
#include "grouped_gemm/grouped_gemm.h"
#include "isas.h"
#include "linear/linear.h"
#include "moe_mlp/moe_mlp.h"
#include "norm_rope/norm_rope.h"
#include "permute/permute.h"
#include "roofline/roofline.h"
#include "router_topk/router_topk.h"
#include "token_confidence/token_confidence.h"

namespace llada {
namespace {

// --- the ops: each packs, runs and returns all that it wrote

Arrays run_linear(const Format& format, std::int64_t rows, std::int64_t columns, std::int64_t k) {
  const Array x = numbers(format.plain, {rows, k}, 1), weight = numbers(format.plain, {columns, k}, 2);
  const Array bias = numbers(format.plain, {columns}, 3);
  Arrays out;
  out.push_back(panels_for(format, -1, columns, k));
  pack_linear(weight.view, out[0].view);
  for (const bool packed : {true, false}) {
    out.emplace_back(format.plain, Sizes{rows, columns});
    linear({x.view, packed ? out[0].view : weight.view, packed, bias.view, out.back().view});
  }
  return out;
}

// Appends the panels of gate_up [E, 2I, H] and of down [E, H, I].
void pack_experts(const Format& format, const ArrayView& gate_up, const ArrayView& down, Arrays& out) {
  const std::int64_t experts = down.size(0), hidden = down.size(1), intermediate = down.size(2);
  out.push_back(panels_for(format, experts, intermediate, hidden, true));
  out.push_back(panels_for(format, experts, hidden, intermediate));
  for (std::int64_t e = 0; e < experts; ++e) {
    ArrayView gate = item(gate_up, e), up = gate;
    gate.sizes[0] = up.sizes[0] = intermediate;
    up.data = gate.as<char>() + intermediate * hidden * dtype_bytes(gate.dtype);
    pack_expert({gate, up, item(down, e), item(out[0].view, e), item(out[1].view, e)});
  }
}

Arrays run_moe_mlp(const Format& format, std::int64_t tokens) {
  constexpr std::int64_t kExperts = 5, kSlots = 3, kHidden = 192, kIntermediate = 96;
  const Array gate_up = numbers(format.plain, {kExperts, 2 * kIntermediate, kHidden}, 1);
  const Array down = numbers(format.plain, {kExperts, kHidden, kIntermediate}, 2);
  const Array x = numbers(format.plain, {tokens, kHidden}, 3), weights = numbers(DType::kFloat32, {tokens, kSlots}, 4);
  const Array experts = integers({tokens, kSlots}, [](std::int64_t i) { return i * i % (kExperts + 1); });
  Arrays out;
  pack_experts(format, gate_up.view, down.view, out);
  for (const bool packed : {true, false}) {
    out.emplace_back(format.plain, Sizes{tokens, kHidden});
    moe_mlp({x.view, weights.view, experts.view, packed ? out[0].view : gate_up.view, packed ? out[1].view : down.view,
             packed, kIntermediate, out.back().view});
  }
  return out;
}

// The two halves of an expert layer, one behind the other.
Arrays run_grouped(const Format& format) {
  constexpr std::int64_t kGroups = 4, kRows = 60, kHidden = 160, kIntermediate = 96;
  const Array gate_up = numbers(format.plain, {kGroups, 2 * kIntermediate, kHidden}, 1);
  const Array down = numbers(format.plain, {kGroups, kHidden, kIntermediate}, 2);
  const Array x = numbers(format.plain, {kRows, kHidden}, 3);
  const Array offsets = integers({kGroups + 1}, [](std::int64_t i) { return 14 * i; });
  Arrays out;
  pack_experts(format, gate_up.view, down.view, out);
  for (const bool packed : {true, false}) {
    out.emplace_back(format.plain, Sizes{kRows, kIntermediate});
    grouped_swiglu({x.view, packed ? out[0].view : gate_up.view, packed, offsets.view, out.back().view});
    const ArrayView hidden = out.back().view;
    out.emplace_back(format.plain, Sizes{kRows, kHidden});
    grouped_gemm({hidden, packed ? out[1].view : down.view, packed, offsets.view, out.back().view});
  }
  return out;
}

// Few queries against many keys: cut over keys, each head by itself or all heads of a block of keys together.
Arrays run_cut_attention(DType dtype, std::int64_t keys) {
  constexpr std::int64_t kThreads = 4;
  const Array q = numbers(dtype, {1, 2, 4, 64}, 1), k = numbers(dtype, {1, keys, 2, 64}, 2);
  const Array v = numbers(dtype, {1, keys, 2, 64}, 3);
  Arrays out;
  out.emplace_back(dtype, Sizes{1, 2, 4, 64});
  AttentionArgs args;
  args.q = q.view, args.k = k.view, args.v = v.view, args.out = out[0].view;
  EXPECT(plan_attention(args, kThreads).cut_keys, "%lld keys", static_cast<long long>(keys));
  attention(args);
  return out;
}

Arrays run_attention(DType dtype) {
  const Array q = numbers(dtype, {2, 150, 4, 32}, 1), k = numbers(dtype, {2, 150, 2, 32}, 2);
  const Array v = numbers(dtype, {2, 150, 2, 32}, 3);
  const Array range = integers({2, 2}, [](std::int64_t i) { return i == 0 ? 20 : i == 2 ? 0 : 150 - 7 * (i / 3); });
  Arrays out;
  for (const std::int64_t block_size : {0, 16}) {
    out.emplace_back(dtype, Sizes{2, 150, 4, 32});
    AttentionArgs args;
    args.q = q.view, args.k = k.view, args.v = v.view, args.out = out.back().view;
    args.block_size = block_size;
    if (block_size == 0) args.key_range = range.view;
    attention(args);
  }
  return out;
}

Arrays run_router(DType dtype) {
  constexpr std::int64_t kTokens = 200, kHidden = 256, kExperts = 64, kSlots = 8;
  const Array x = numbers(dtype, {kTokens, kHidden}, 1), gate = numbers(dtype, {kExperts, kHidden}, 2);
  const Array logits = numbers(dtype, {kTokens, kExperts}, 3);
  Arrays out;
  for (int call = 0; call < 2; ++call) {
    out.emplace_back(DType::kFloat32, Sizes{kTokens, kSlots});
    out.emplace_back(DType::kInt32, Sizes{kTokens, kSlots});
    RouterTopkArgs topk;
    topk.logits = logits.view;
    topk.k = kSlots;
    topk.weights = out[2 * call].view;
    topk.experts = out[2 * call + 1].view;
    call == 0 ? router_topk(topk) : router({x.view, gate.view, topk});
  }
  return out;
}

Arrays run_token_confidence(const Format& format) {
  constexpr std::int64_t kRows = 20, kHidden = 64, kVocabulary = 3000;
  const Array hidden = numbers(format.plain, {kRows, kHidden}, 1);
  const Array head = numbers(format.plain, {kVocabulary, kHidden}, 2);
  const Array packed = panels_for(format, -1, kVocabulary, kHidden);
  pack_linear(head.view, packed.view);
  Arrays out;
  for (const bool is_packed : {true, false}) {
    const std::size_t first = out.size();
    for (int i = 0; i < 6; ++i) out.emplace_back(i % 2 == 0 && i < 4 ? DType::kInt32 : DType::kFloat32, Sizes{kRows});
    TokenConfidenceArgs args;
    args.hidden = hidden.view;
    args.weight = is_packed ? packed.view : head.view;
    args.packed = is_packed;
    args.vocabulary = kVocabulary;
    args.temperature = 0.7;
    args.seed = 5;
    args.mask_token = 17;
    args.top_p = 0.95;
    args.token = out[first].view;
    args.logprob = out[first + 1].view;
    args.runner_up = out[first + 2].view;
    args.runner_up_logprob = out[first + 3].view;
    args.entropy = out[first + 4].view;
    args.logsumexp = out[first + 5].view;
    token_confidence(args);
  }
  return out;
}

Arrays run_norms(DType dtype) {
  constexpr std::int64_t kTokens = 200, kHeads = 4, kDepth = 64, kHidden = kHeads * kDepth;
  const Array x = numbers(dtype, {kTokens, kHidden}, 1), residual = numbers(dtype, {kTokens, kHidden}, 2);
  const Array weight = numbers(dtype, {kHidden}, 3), head_weight = numbers(dtype, {kDepth}, 4);
  const Array q = numbers(dtype, {1, kTokens, kHeads, kDepth}, 5), k = numbers(dtype, {1, kTokens, 2, kDepth}, 6);
  const Array positions = integers({1, kTokens}, [](std::int64_t i) { return i; });
  const Array frequencies = numbers(DType::kFloat32, {kDepth / 2}, 7);
  Arrays out;
  for (int i = 0; i < 3; ++i) out.emplace_back(dtype, Sizes{kTokens, kHidden});
  rms_norm({x.view, {}, weight.view, 1e-5, out[0].view, {}});
  rms_norm({x.view, residual.view, weight.view, 1e-5, out[1].view, out[2].view});
  out.emplace_back(dtype, Sizes{1, kTokens, kHeads, kDepth});
  out.emplace_back(dtype, Sizes{1, kTokens, 2, kDepth});
  qk_norm_rope({q.view, k.view, head_weight.view, head_weight.view, positions.view, frequencies.view, 1e-5, 0.9,
                out[3].view, out[4].view});
  return out;
}

Arrays run_attention_layer(const Format& format) {
  constexpr std::int64_t kBatch = 2, kLength = 20, kHidden = 96, kHeads = 4, kKeyHeads = 2, kDepth = 32, kKeys = 50;
  constexpr std::int64_t kColumns = (kHeads + 2 * kKeyHeads) * kDepth;
  const DType dtype = format.plain;
  const Array update = numbers(dtype, {kBatch, kLength, kHidden}, 1), weight = numbers(dtype, {kHidden}, 2);
  const Array residual = numbers(dtype, {kBatch, kLength, kHidden}, 3), head_weight = numbers(dtype, {kDepth}, 4);
  const Array qkv = numbers(dtype, {kColumns, kHidden}, 5), projection = numbers(dtype, {kHidden, kHeads * kDepth}, 6);
  const Array qkv_panels = panels_for(format, -1, kColumns, kHidden);
  const Array out_panels = panels_for(format, -1, kHidden, kHeads * kDepth);
  pack_linear(qkv.view, qkv_panels.view);
  pack_linear(projection.view, out_panels.view);
  const Array positions = integers({kBatch, kLength}, [](std::int64_t i) { return 5 + i % kLength; });
  const Array frequencies = numbers(DType::kFloat32, {kDepth / 2}, 7);
  Arrays out;
  out.push_back(numbers(dtype, {2, kBatch, kKeys, kKeyHeads, kDepth}, 8));  // the cache is written, too
  for (int i = 0; i < 2; ++i) out.emplace_back(dtype, Sizes{kBatch, kLength, kHidden});
  attention_layer({update.view,
                   residual.view,
                   weight.view,
                   1e-5,
                   qkv_panels.view,
                   {},
                   out_panels.view,
                   {},
                   kHeads,
                   kKeyHeads,
                   kDepth,
                   head_weight.view,
                   head_weight.view,
                   positions.view,
                   frequencies.view,
                   out[0].view,
                   {},
                   out[1].view,
                   out[2].view});
  return out;
}

Arrays run_expert_layer(const Format& format) {
  constexpr std::int64_t kTokens = 30, kExperts = 6, kSlots = 2, kHidden = 96, kIntermediate = 64;
  const DType dtype = format.plain;
  const Array update = numbers(dtype, {kTokens, kHidden}, 1), residual = numbers(dtype, {kTokens, kHidden}, 2);
  const Array weight = numbers(dtype, {kHidden}, 3), gate = numbers(dtype, {kExperts, kHidden}, 4);
  const Array gate_up = numbers(dtype, {kExperts, 2 * kIntermediate, kHidden}, 5);
  const Array down = numbers(dtype, {kExperts, kHidden, kIntermediate}, 6);
  Arrays out;
  pack_experts(format, gate_up.view, down.view, out);
  for (int i = 0; i < 2; ++i) out.emplace_back(dtype, Sizes{kTokens, kHidden});
  expert_layer({update.view,
                residual.view,
                weight.view,
                1e-5,
                gate.view,
                {},
                kSlots,
                true,
                1.0,
                out[0].view,
                out[1].view,
                kIntermediate,
                out[2].view,
                out[3].view});
  return out;
}

Arrays run_permute(DType dtype) {
  constexpr std::int64_t kTokens = 100, kSlots = 4, kExperts = 9, kHidden = 256;
  const Array x = numbers(dtype, {kTokens, kHidden}, 1), weights = numbers(DType::kFloat32, {kTokens, kSlots}, 2);
  const Array experts = integers({kTokens, kSlots}, [](std::int64_t i) { return i * i % kExperts; });
  Arrays out;
  out.emplace_back(DType::kInt32, Sizes{kTokens * kSlots});
  out.emplace_back(DType::kInt32, Sizes{kExperts + 1});
  expert_order({experts.view, kExperts, out[0].view, out[1].view});
  out.emplace_back(dtype, Sizes{kTokens * kSlots, kHidden});
  permute({x.view, out[0].view, kSlots, out[2].view});
  out.emplace_back(dtype, Sizes{kTokens, kHidden});
  unpermute({out[2].view, out[0].view, weights.view, out[3].view});
  return out;
}

struct Case {
  std::string name;
  std::function<Arrays()> run;
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const Format& format : kFormats) {
    const std::string name = format.name;
    cases.push_back({"linear " + name, [&format] { return run_linear(format, 15, 1300, 256); }});
    cases.push_back({"linear, weights in cache " + name, [&format] { return run_linear(format, 130, 70, 200); }});
    for (const std::int64_t tokens : {1, 25}) {
      cases.push_back({"moe_mlp " + name, [&format, tokens] { return run_moe_mlp(format, tokens); }});
    }
    cases.push_back({"grouped " + name, [&format] { return run_grouped(format); }});
    cases.push_back({"attention_layer " + name, [&format] { return run_attention_layer(format); }});
    cases.push_back({"expert_layer " + name, [&format] { return run_expert_layer(format); }});
    if (is_quantized(format.panel)) continue;
    const DType dtype = format.plain;
    cases.push_back({"token_confidence " + name, [&format] { return run_token_confidence(format); }});
    for (const std::int64_t keys : {700, 5000}) {
      cases.push_back({"attention cut over keys " + name, [dtype, keys] { return run_cut_attention(dtype, keys); }});
    }
    cases.push_back({"attention " + name, [dtype] { return run_attention(dtype); }});
    cases.push_back({"router " + name, [dtype] { return run_router(dtype); }});
    cases.push_back({"norms " + name, [dtype] { return run_norms(dtype); }});
    cases.push_back({"permute " + name, [dtype] { return run_permute(dtype); }});
  }
  return cases;
}

void expect_bits(const Case& one, const Arrays& expected, const char* when) {
  const Arrays got = one.run();
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT(std::memcmp(got[i].view.data, expected[i].view.data, got[i].bytes()) == 0, "%s, output %zu, %s, %s",
           one.name.c_str(), i, when, isa_name(active_isa()));
  }
}

void every_op_gives_the_bits_of_one_thread() {
  const std::vector<Case> cases = all_cases();
  std::vector<Arrays> expected;
  set_pool_threads(1);
  for (const Case& one : cases) {
    expected.push_back(one.run());
    for (const Array& array : expected.back()) {
      const char* bytes = array.view.as<char>();
      EXPECT(std::any_of(bytes, bytes + array.bytes(), [](char byte) { return byte != 0; }), "%s", one.name.c_str());
    }
  }
  for (const int threads : {2, 5}) {
    set_pool_threads(threads);
    for (std::size_t i = 0; i < cases.size(); ++i) expect_bits(cases[i], expected[i], "several threads");
  }

  constexpr std::size_t kCallers = 3;
  std::atomic<int> running{kCallers};
  std::vector<std::thread> callers;
  for (std::size_t caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (std::size_t i = 0; i < cases.size(); ++i) {
        const std::size_t mine = (i + caller * 7) % cases.size();
        expect_bits(cases[mine], expected[mine], "other callers");
      }
      --running;
    });
  }
  for (int threads = 1; running > 0; threads = threads % 4 + 1) {
    set_pool_threads(threads);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  for (std::thread& caller : callers) caller.join();
}

void probes_run_on_several_threads() {
  set_pool_threads(3);
  EXPECT(ReadProbe(3, 1 << 16).round(1e-3) > 0, "bytes a second");
  EXPECT(ProductProbe(3, Arithmetic::kInt8).round(1e-3) > 0, "operations a second");
}

}  // namespace
}  // namespace llada

int main() {
  using namespace llada;
  for (const Isa isa : tested_isas()) {
    force_isa(isa_name(isa));
    every_op_gives_the_bits_of_one_thread();
  }
  force_isa("");
  probes_run_on_several_threads();
}

// op_kernels SEEDS [NAME]: every op's CUDA kernels in the emulator, or those of the cases with NAME in their names, on
// both paths, under several orders of threads and blocks, each of which must give the bits of the first. In a
// ThreadSanitizer build (tests/sanitize.sh) this is the search for data races in the kernels themselves.
//
// The smallest shapes with more steps of depth than stages, more tiles than multiprocessors and no size that a tile
// divides; what the values should be is for the op tests to say.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "attention/attention_cuda.h"
#include "common/isa.h"
#include "cuda/launch_report.h"
#include "emulate/scheduler.h"
#include "grouped_gemm/grouped_gemm.h"
#include "grouped_gemm/grouped_gemm_cuda.h"
#include "linear/linear.h"
#include "linear/linear_cuda.h"
#include "moe_mlp/moe_mlp.h"
#include "moe_mlp/moe_mlp_cuda.h"
#include "norm_rope/norm_rope.h"
#include "norm_rope/norm_rope_cuda.h"
#include "permute/permute.h"
#include "permute/permute_cuda.h"
#include "router_topk/router_topk.h"
#include "router_topk/router_topk_cuda.h"
#include "tests/cpp/arrays.h"
#include "token_confidence/token_confidence.h"
#include "token_confidence/token_confidence_cuda.h"

namespace llada {
namespace {

constexpr int kMultiprocessors = 2;
constexpr DType kFloat32 = DType::kFloat32, kBFloat16 = DType::kBFloat16, kInt32 = DType::kInt32;
constexpr cuda::Stream kStream;

// --- the ops: each runs and returns all that it wrote

Arrays run_linear(DType dtype, std::int64_t rows, std::int64_t columns, std::int64_t depth) {
  const Array x = numbers(dtype, {rows, depth}, 1), weight = numbers(dtype, {columns, depth}, 2);
  const Array bias = numbers(dtype, {columns}, 3);
  Arrays out;
  out.emplace_back(dtype, Sizes{rows, columns});
  cuda::linear({x.view, weight.view, false, bias.view, out[0].view}, kStream);
  return out;
}

// The first group is short, the second empty; the last rows are of no group.
Arrays run_grouped(bool swiglu, std::int64_t groups, std::int64_t rows, std::int64_t columns, std::int64_t depth) {
  const Array x = numbers(kBFloat16, {rows, depth}, 1);
  const Array weight = numbers(kBFloat16, {groups, swiglu ? 2 * columns : columns, depth}, 2);
  const Array offsets = integers({groups + 1}, [&](std::int64_t i) { return i == 0 ? 0 : i < groups ? 3 : rows - 5; });
  Arrays out;
  out.emplace_back(kBFloat16, Sizes{rows, columns});
  const auto run = swiglu ? cuda::grouped_swiglu : cuda::grouped_gemm;
  run({x.view, weight.view, false, offsets.view, out[0].view}, kStream);
  return out;
}

Arrays run_moe_mlp(bool int8, std::int64_t tokens, std::int64_t hidden, std::int64_t intermediate) {
  constexpr std::int64_t kExperts = 3, kSlots = 2, kMultiple = 16;
  const auto stored = [](std::int64_t depth) { return (depth + kMultiple - 1) / kMultiple * kMultiple; };
  const Array x = numbers(kBFloat16, {tokens, hidden}, 1), weights = numbers(kFloat32, {tokens, kSlots}, 2);
  const Array experts = integers({tokens, kSlots}, [](std::int64_t i) { return i * i % (kExperts + 1); });
  const auto weight = [&](std::int64_t rows, std::int64_t depth) {
    if (!int8) return numbers(kBFloat16, {kExperts, rows, depth}, rows);
    Array bytes(DType::kInt8, {kExperts, rows, stored(depth)});
    for (std::int64_t i = 0; i < bytes.view.elements(); ++i) {
      bytes.view.as<std::int8_t>()[i] = static_cast<std::int8_t>(i * 37 % 255 - 127);
    }
    return bytes;
  };
  const Array gate_up = weight(2 * intermediate, hidden), down = weight(hidden, intermediate);
  const Array gate_up_scale = numbers(kFloat32, {kExperts, 2 * intermediate}, 3);
  const Array down_scale = numbers(kFloat32, {kExperts, hidden}, 4);
  Arrays out;
  out.emplace_back(kBFloat16, Sizes{tokens, hidden});
  const MoeMlpArgs args{x.view, weights.view, experts.view, gate_up.view, down.view, int8, intermediate, out[0].view};
  const cuda::MoeMlpSizes sizes = cuda::moe_mlp_sizes(args);
  const Array order(kInt32, {sizes.rows}), offsets(kInt32, {kExperts + 1});
  const Array rows(kBFloat16, {sizes.rows, intermediate}), outputs(kFloat32, {sizes.rows, hidden});
  const cuda::MoeMlpWorkspace workspace{order.view, offsets.view, rows.view, outputs.view};
  if (int8) {
    cuda::moe_mlp_int8(args, {gate_up_scale.view, down_scale.view}, workspace, kStream);
  } else {
    cuda::moe_mlp(args, workspace, kStream);
  }
  return out;
}

struct AttentionCase {
  DType dtype;
  std::int64_t queries, keys, depth, heads = 2, key_heads = 1;
  enum class Mask { kNone, kTensor, kRange, kPacked, kBlocks } mask = Mask::kNone;
  std::int64_t sequences = 1;
};

Arrays run_attention(const AttentionCase& shape) {
  using Mask = AttentionCase::Mask;
  const Array q = numbers(shape.dtype, {1, shape.queries, shape.heads, shape.depth}, 1);
  const Array k = numbers(shape.dtype, {1, shape.keys, shape.key_heads, shape.depth}, 2);
  const Array v = numbers(shape.dtype, {1, shape.keys, shape.key_heads, shape.depth}, 3);
  Array mask(DType::kBool, {1, 1, shape.queries, shape.keys});
  for (std::int64_t i = 0; i < mask.view.elements(); ++i) {
    const std::int64_t query = i / shape.keys, key = i % shape.keys;
    mask.view.as<bool>()[i] = i % 7 != 0 && (key / 128 != 1 || query >= 256);  // some see nothing of the second tile
  }
  const Array range = integers({1, 2}, [&](std::int64_t i) { return i == 0 ? 5 : shape.keys - 3; });
  const Array packed = integers({shape.sequences + 1}, [&](std::int64_t i) {
    return i == 0 ? 0 : i < shape.sequences ? 5 : shape.keys;  // a short one, empty ones, a long one
  });
  Arrays out;
  out.emplace_back(shape.dtype, Sizes{1, shape.queries, shape.heads, shape.depth});
  AttentionArgs args;
  args.q = q.view, args.k = k.view, args.v = v.view, args.out = out[0].view;
  if (shape.mask == Mask::kTensor) args.mask = mask.view;
  if (shape.mask == Mask::kRange) args.key_range = range.view;
  if (shape.mask == Mask::kPacked) args.cu_seqlens = packed.view;
  if (shape.mask == Mask::kBlocks) args.block_size = 16;
  const Array workspace(kFloat32, {cuda::attention_workspace(args)});
  cuda::attention(args, workspace.view, kStream);
  return out;
}

Arrays run_router(DType dtype, std::int64_t tokens, std::int64_t num_experts, std::int64_t hidden) {
  constexpr std::int64_t kSlots = 3;
  const Array x = numbers(dtype, {tokens, hidden}, 1), gate = numbers(dtype, {num_experts, hidden}, 2);
  const Array logits = numbers(dtype, {tokens, num_experts}, 3);
  const Array room(dtype, {tokens, cuda::router_logits(num_experts)});
  Arrays out;
  for (int call = 0; call < 2; ++call) {
    out.emplace_back(kFloat32, Sizes{tokens, kSlots});
    out.emplace_back(kInt32, Sizes{tokens, kSlots});
    RouterTopkArgs topk;
    topk.logits = logits.view;
    topk.k = kSlots;
    topk.num_groups = 10;  // of more than one lane
    topk.topk_groups = 4;
    topk.weights = out[2 * call].view;
    topk.experts = out[2 * call + 1].view;
    if (call == 0) {
      cuda::router_topk(topk, kStream);
    } else {
      cuda::router({x.view, gate.view, topk}, room.view, kStream);
    }
  }
  return out;
}

Arrays run_token_confidence(DType dtype, std::int64_t rows, std::int64_t hidden, std::int64_t top_k = 0,
                            double top_p = 1.0, double temperature = 0.7) {
  constexpr std::int64_t kVocabulary = 300;
  const Array states = numbers(dtype, {rows, hidden}, 1), head = numbers(dtype, {kVocabulary, hidden}, 2);
  const Array forbidden = integers({3}, [](std::int64_t i) { return 5 + 130 * i; });
  const Array biased = integers({rows, 40}, [](std::int64_t i) { return i * 7 % kVocabulary; }, DType::kInt64);
  const Array bias = numbers(kFloat32, {rows, 40}, 3);
  Arrays out;
  for (int i = 0; i < 6; ++i) out.emplace_back(i % 2 == 0 && i < 4 ? kInt32 : kFloat32, Sizes{rows});
  TokenConfidenceArgs args;
  args.hidden = states.view;
  args.weight = head.view;
  args.vocabulary = kVocabulary;
  args.temperature = temperature;
  args.seed = 5;
  args.top_k = top_k;
  args.top_p = top_p;
  args.forbidden = forbidden.view;
  args.mask_token = 17;
  args.bias_tokens = biased.view;
  args.bias_values = bias.view;
  args.token = out[0].view;
  args.logprob = out[1].view;
  args.runner_up = out[2].view;
  args.runner_up_logprob = out[3].view;
  args.entropy = out[4].view;
  args.logsumexp = out[5].view;
  const Array workspace(kFloat32, {cuda::token_confidence_workspace(args)});
  cuda::token_confidence(args, workspace.view, kStream);
  return out;
}

Arrays run_norms(DType dtype, std::int64_t depth) {
  constexpr std::int64_t kTokens = 3, kHeads = 5;
  const std::int64_t hidden = kHeads * depth;
  const Array x = numbers(dtype, {kTokens, hidden}, 1), residual = numbers(dtype, {kTokens, hidden}, 2);
  const Array weight = numbers(dtype, {hidden}, 3), head_weight = numbers(dtype, {depth}, 4);
  const Array q = numbers(dtype, {1, kTokens, kHeads, depth}, 5), k = numbers(dtype, {1, kTokens, 2, depth}, 6);
  const Array positions = integers({1, kTokens}, [](std::int64_t i) { return i; });
  const Array frequencies = numbers(kFloat32, {depth / 2}, 7);
  Arrays out;
  for (int i = 0; i < 3; ++i) out.emplace_back(dtype, Sizes{kTokens, hidden});
  cuda::rms_norm({x.view, {}, weight.view, 1e-5, out[0].view, {}}, kStream);
  cuda::rms_norm({x.view, residual.view, weight.view, 1e-5, out[1].view, out[2].view}, kStream);
  out.emplace_back(dtype, Sizes{1, kTokens, kHeads, depth});
  out.emplace_back(dtype, Sizes{1, kTokens, 2, depth});
  cuda::qk_norm_rope({q.view, k.view, head_weight.view, head_weight.view, positions.view, frequencies.view, 1e-5, 0.9,
                      out[3].view, out[4].view},
                     kStream);
  return out;
}

Arrays run_permute(DType dtype, std::int64_t tokens, std::int64_t hidden) {
  constexpr std::int64_t kSlots = 3, kExperts = 40;  // more than a warp has lanes
  const std::int64_t rows = tokens * kSlots;
  const Array x = numbers(dtype, {tokens, hidden}, 1), weights = numbers(kFloat32, {tokens, kSlots}, 2);
  const Array experts = integers({tokens, kSlots}, [](std::int64_t i) { return i * i % (kExperts + 1); });
  const Array row_of(kInt32, {rows});
  Arrays out;
  out.emplace_back(kInt32, Sizes{rows});
  out.emplace_back(kInt32, Sizes{kExperts + 1});
  cuda::expert_order({experts.view, kExperts, out[0].view, out[1].view}, kStream);
  if (hidden == 0) return out;
  out.emplace_back(dtype, Sizes{rows, hidden});
  cuda::permute({x.view, out[0].view, kSlots, out[2].view}, kStream);
  out.emplace_back(dtype, Sizes{tokens, hidden});
  cuda::unpermute({out[2].view, out[0].view, weights.view, out[3].view}, row_of.view, kStream);
  return out;
}

// --- the search

struct Case {
  std::string name;
  std::function<Arrays()> run;
};

// A stage of the products holds 64 of depth (fp32: 32, bytes: 128); there are 3 … 12 of them. Depths end in the first
// one, where finished rows meet next.
const std::vector<Case> kCases = {
    {"rms_norm, add_rms_norm, qk_norm_rope, bf16", [] { return run_norms(kBFloat16, 64); }},
    {"rms_norm, add_rms_norm, qk_norm_rope, fp32, odd", [] { return run_norms(kFloat32, 30); }},
    {"expert_order, permute, unpermute, bf16", [] { return run_permute(kBFloat16, 40, 136); }},
    {"expert_order, permute, unpermute, fp32, odd", [] { return run_permute(kFloat32, 7, 33); }},
    {"expert_order, two blocks", [] { return run_permute(kFloat32, 1400, 0); }},
    {"router_topk, router, bf16", [] { return run_router(kBFloat16, 18, 70, 584); }},
    {"router_topk, router, fp32", [] { return run_router(kFloat32, 18, 10, 292); }},
    {"linear, narrow", [] { return run_linear(kBFloat16, 20, 40, 1032); }},
    {"linear, few rows, not aligned", [] { return run_linear(kBFloat16, 35, 70, 257); }},
    {"linear, many rows", [] { return run_linear(kBFloat16, 200, 260, 392); }},
    {"linear, fp32", [] { return run_linear(kFloat32, 35, 130, 132); }},
    {"grouped_gemm, few rows", [] { return run_grouped(false, 3, 80, 136, 520); }},
    {"grouped_gemm, many rows", [] { return run_grouped(false, 2, 140, 264, 392); }},
    {"grouped_swiglu, few rows", [] { return run_grouped(true, 3, 80, 72, 520); }},
    {"grouped_swiglu, many rows", [] { return run_grouped(true, 2, 140, 136, 392); }},
    {"moe_mlp", [] { return run_moe_mlp(false, 20, 520, 72); }},
    {"moe_mlp_int8", [] { return run_moe_mlp(true, 20, 776, 72); }},
    {"attention, few queries", [] { return run_attention({kBFloat16, 5, 400, 64}); }},
    {"attention, few queries, 256 of depth", [] { return run_attention({kBFloat16, 40, 200, 160}); }},
    {"attention, mask tensor",
     [] { return run_attention({kBFloat16, 70, 260, 72, 1, 1, AttentionCase::Mask::kTensor}); }},
    {"attention, mask tensor, as many queries as keys",
     [] { return run_attention({kBFloat16, 290, 290, 64, 1, 1, AttentionCase::Mask::kTensor}); }},
    {"attention, key range", [] { return run_attention({kBFloat16, 70, 260, 64, 1, 1, AttentionCase::Mask::kRange}); }},
    {"attention, as many queries as keys",
     [] { return run_attention({kBFloat16, 280, 280, 64, 1, 1, AttentionCase::Mask::kBlocks}); }},
    {"attention, packed, many blocks",
     [] { return run_attention({kBFloat16, 265, 265, 72, 1, 1, AttentionCase::Mask::kPacked, 256}); }},
    {"attention, fp32", [] { return run_attention({kFloat32, 5, 70, 33}); }},
    {"token_confidence, few rows", [] { return run_token_confidence(kBFloat16, 20, 264); }},
    {"token_confidence, many rows", [] { return run_token_confidence(kBFloat16, 130, 200); }},
    {"token_confidence, fp32", [] { return run_token_confidence(kFloat32, 33, 132); }},
    {"token_confidence, top_k", [] { return run_token_confidence(kBFloat16, 5, 40, 9, 0.8); }},
    {"token_confidence, top_p", [] { return run_token_confidence(kBFloat16, 33, 40, 0, 0.9); }},
    // Of nearly equal tokens noise chooses many before one in so small a nucleus: two rows go through search_kernel.
    {"token_confidence, small top_p", [] { return run_token_confidence(kFloat32, 9, 36, 0, 0.01, 50.0); }},
};

Arrays run(const Case& one, unsigned seed) {
  emulate::settings() = {seed, 1 + seed % 4, kMultiprocessors};
  return one.run();
}

void every_order_gives_the_same_bits(const Case& one, const char* path, unsigned seeds) {
  const auto start = std::chrono::steady_clock::now();
  const Arrays expected = run(one, 0);
  for (const Array& array : expected) {
    const char* bytes = array.view.as<char>();
    EXPECT(std::any_of(bytes, bytes + array.bytes(), [](char byte) { return byte != 0; }), "%s", one.name.c_str());
  }
  for (unsigned seed = 1; seed < seeds; ++seed) {
    const Arrays got = run(one, seed);
    for (std::size_t i = 0; i < got.size(); ++i) {
      EXPECT(std::memcmp(got[i].view.data, expected[i].view.data, got[i].bytes()) == 0,
             "%s, output %zu, path %s, seed %u", one.name.c_str(), i, path, seed);
    }
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  std::printf("%-6s %-48s %6.2f s\n", path, one.name.c_str(), taken.count());
  std::fflush(stdout);
}

}  // namespace
}  // namespace llada

int main(int count, char** arguments) {
  using namespace llada;
  if (count != 2 && count != 3) {
    std::fputs("op_kernels SEEDS [NAME]\n", stderr);
    return 64;
  }
  const auto seeds = static_cast<unsigned>(std::strtoul(arguments[1], nullptr, 10));
  const std::string wanted = count == 3 ? arguments[2] : "";
  for (const CudaPath path : {CudaPath::kSm80, CudaPath::kSm90a}) {
    force_isa(cuda_path_name(path));
    for (const Case& one : kCases) {
      if (one.name.find(wanted) != std::string::npos) {
        every_order_gives_the_same_bits(one, cuda_path_name(path), seeds);
      }
    }
  }
}

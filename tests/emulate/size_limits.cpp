// size_limits: every op's CUDA entry refuses arrays of more rows than its kernels count, in its own name, before it
// touches any of them. The views are of no memory.
#include <cstdio>
#include <functional>
#include <initializer_list>
#include <string>

#include "attention/attention.h"
#include "attention/attention_cuda.h"
#include "common/check.h"
#include "cuda/launch_report.h"
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
#include "token_confidence/token_confidence.h"
#include "token_confidence/token_confidence_cuda.h"

namespace llada {
namespace {

constexpr std::int64_t k2To31 = std::int64_t{1} << 31, k2To30 = k2To31 / 2;
constexpr DType kInt32 = DType::kInt32, kFloat32 = DType::kFloat32;
constexpr cuda::Stream kStream;

ArrayView view(std::initializer_list<std::int64_t> sizes, DType dtype = DType::kBFloat16) {
  alignas(64) static char nothing[64];
  return contiguous_view(nothing, dtype, sizes);
}

void run_router(bool fused) {
  RouterTopkArgs topk;
  topk.logits = view({k2To31, 4});
  topk.weights = view({k2To31, 1}, kFloat32);
  topk.experts = view({k2To31, 1}, kInt32);
  if (fused) return cuda::router({view({k2To31, 8}), view({4, 8}), topk}, view({k2To31, 0}), kStream);
  cuda::router_topk(topk, kStream);
}

void run_attention(std::int64_t queries, std::int64_t keys) {
  AttentionArgs args;
  args.q = args.out = view({1, queries, 1, 8});
  args.k = args.v = view({1, keys, 1, 8});
  cuda::attention(args, view({cuda::attention_workspace(args)}, kFloat32), kStream);
}

void run_token_confidence() {
  TokenConfidenceArgs args;
  args.hidden = view({k2To31, 8});
  args.weight = view({4, 8});
  args.vocabulary = 4;
  args.token = args.runner_up = view({k2To31}, kInt32);
  args.logprob = args.runner_up_logprob = args.entropy = args.logsumexp = view({k2To31}, kFloat32);
  cuda::token_confidence(args, view({cuda::token_confidence_workspace(args)}, kFloat32), kStream);
}

struct Case {
  const char *op, *message;
  std::function<void()> run;
};

const Case kCases[] = {
    {"linear", "x must be of fewer than 2^31 rows",
     [] { cuda::linear({view({k2To31, 8}), view({1, 8}), false, {}, view({k2To31, 1})}, kStream); }},
    {"grouped_gemm", "x_sorted must be of fewer than 2^31 rows",
     [] {
       cuda::grouped_gemm({view({k2To31, 8}), view({1, 1, 8}), false, view({2}, kInt32), view({k2To31, 1})}, kStream);
     }},
    {"grouped_swiglu", "x_sorted must be of fewer than 2^31 rows",
     [] {
       cuda::grouped_swiglu({view({k2To31, 8}), view({1, 2, 8}), false, view({2}, kInt32), view({k2To31, 1})}, kStream);
     }},
    {"moe_mlp", "of fewer than 2^31 assignments",
     [] {
       const ArrayView none;
       cuda::moe_mlp({view({k2To30, 8}), view({k2To30, 2}, kFloat32), view({k2To30, 2}, kInt32), view({1, 16, 8}),
                      view({1, 8, 8}), false, 8, view({k2To30, 8})},
                     {none, none, none, none}, kStream);
     }},
    {"expert_order", "of fewer than 2^31 assignments",
     [] { cuda::expert_order({view({k2To31, 1}, kInt32), 2, view({k2To31}, kInt32), view({3}, kInt32)}, kStream); }},
    {"permute", "order must be of fewer than 2^31 entries",
     [] { cuda::permute({view({1, 8}), view({k2To31}, kInt32), 1, view({k2To31, 8})}, kStream); }},
    {"unpermute", "weights must be of fewer than 2^31 entries",
     [] {
       cuda::unpermute({view({4, 8}), view({4}, kInt32), view({k2To31, 1}, kFloat32), view({k2To31, 8})},
                       view({k2To31}, kInt32), kStream);
     }},
    {"rms_norm", "x must be of fewer than 2^31 rows",
     [] { cuda::rms_norm({view({k2To31, 8}), {}, view({8}), 1e-5, view({k2To31, 8}), {}}, kStream); }},
    {"add_rms_norm", "x must be of fewer than 2^31 rows",
     [] {
       const ArrayView rows = view({k2To31, 8});
       cuda::rms_norm({rows, rows, view({8}), 1e-5, rows, rows}, kStream);
     }},
    {"qk_norm_rope", "of fewer than 2^31 rows",
     [] {
       const ArrayView heads = view({k2To31, 1, 1, 8});
       cuda::qk_norm_rope(
           {heads, heads, view({8}), view({8}), view({k2To31, 1}, kInt32), view({4}, kFloat32), 1e-5, {}, heads, heads},
           kStream);
     }},
    {"router_topk", "logits must be of fewer than 2^31 rows", [] { run_router(false); }},
    {"router", "of fewer than 2^31 rows", [] { run_router(true); }},
    {"attention", "q must be of fewer than 2^30", [] { run_attention(k2To30, 8); }},
    {"attention", "k must be of fewer than 2^30 keys", [] { run_attention(8, k2To30); }},
    {"token_confidence", "hidden must be of fewer than 2^31 rows", run_token_confidence},
};

// Whether the case is refused as it says.
bool refused(const Case& one) {
  std::string said = "nothing";
  try {
    one.run();
  } catch (const ValueError& error) {
    said = error.what();
  }
  const bool good = said.find(std::string(one.op) + ": ") == 0 && said.find(one.message) != std::string::npos;
  std::printf("%s%s\n", good ? "" : "NOT REFUSED AS IT SHOULD BE: ", said.c_str());
  return good;
}

}  // namespace
}  // namespace llada

int main() {
  bool good = true;
  for (const llada::Case& one : llada::kCases) good = llada::refused(one) && good;
  return good ? 0 : 1;
}

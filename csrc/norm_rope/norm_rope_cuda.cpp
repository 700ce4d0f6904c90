#include "norm_rope/norm_rope_cuda.h"

#include <limits>
#include <string>

#include "cuda/launch_report.h"
#include "norm_rope/norm_rope.h"

namespace llada::cuda {
namespace {

constexpr std::int64_t kMaxDepth = 8192;  // cos and sin of a token lie in shared memory

HeadsParams heads_params(const ArrayView& heads, const ArrayView& weight, const ArrayView& out) {
  return {heads.data, weight.data, out.data, heads.stride(0), heads.stride(1), heads.stride(2), heads.size(2)};
}

void require_grid(const char* op, const char* argument, std::int64_t blocks) {
  require(op, argument, blocks <= std::numeric_limits<std::int32_t>::max(), "of fewer than 2^31 rows",
          std::to_string(blocks));
}

}  // namespace

void rms_norm(const RmsNormArgs& args, const Stream& stream) {
  check_rms_norm(args, backend_of(args.x));
  const std::int64_t hidden = args.x.size(args.x.rank - 1), rows = args.x.elements() / hidden;
  require_grid(args.op(), "x", rows);
  if (rows == 0) return;
  report(args.op(),
         rms_norm_sm80({args.x.dtype, args.x.data, args.residual.data, args.weight.data, args.out.data, args.total.data,
                        rows, hidden, static_cast<float>(args.eps), stream.handle}),
         stream);
}

void qk_norm_rope(const QkNormRopeArgs& args, const Stream& stream) {
  constexpr const char* kOp = "qk_norm_rope";
  check_qk_norm_rope(args, backend_of(args.q));
  const std::int64_t tokens = args.q.size(0) * args.q.size(1), depth = args.q.size(3);
  require(kOp, "q", depth <= kMaxDepth, "of head size at most " + std::to_string(kMaxDepth) + " on a GPU",
          std::to_string(depth));
  require_grid(kOp, "q", tokens);
  if (tokens == 0) return;
  const QkNormRopeParams params{
      args.q.dtype,
      heads_params(args.q, args.q_weight, args.q_out),
      heads_params(args.k, args.k_weight, args.k_out),
      args.positions.data,
      args.positions.dtype == DType::kInt64,
      args.positions.stride(0),
      args.positions.stride(1),
      args.frequencies.as<float>(),
      args.q.size(0),
      args.q.size(1),
      depth,
      args.frequencies.size(0),
      static_cast<float>(args.eps),
      args.clip ? static_cast<float>(*args.clip) : std::numeric_limits<float>::infinity(),
      stream.handle,
  };
  report(kOp, qk_norm_rope_sm80(params), stream);
}

}  // namespace llada::cuda

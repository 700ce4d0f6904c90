// One pass per token: its cos and sin once (fp32 angles as published, evaluated in double), then each head of q and k
// from memory to memory through one head-sized buffer.
#include <limits>
#include <string>
#include <vector>

#include "common/bfloat16.h"
#include "common/check.h"
#include "common/parallel.h"
#include "norm_rope/cos_sin.h"
#include "norm_rope/norm_rope.h"
#include "norm_rope/row_kernels.h"

namespace llada {
namespace {

constexpr const char* kOp = "qk_norm_rope";

float rounded(DType dtype, float value) {
  return dtype == DType::kBFloat16 ? to_float(from_float<bfloat16>(value)) : value;
}

class TokenRotation {
 public:
  explicit TokenRotation(const QkNormRopeArgs& args)
      : args_(args),
        kernels_(select_row_kernels(args.q.dtype, active_isa())),
        half_(args.frequencies.size(0)),
        depth_(args.q.size(3)),
        clip_(args.clip ? rounded(args.q.dtype, static_cast<float>(*args.clip))
                        : std::numeric_limits<float>::infinity()),
        angles_(half_),
        cosines_(half_),
        sines_(half_),
        buffer_(depth_) {}

  void set_position(std::int64_t position) {
    const auto wide = static_cast<float>(position);
    const auto* frequencies = args_.frequencies.as<float>();
    for (std::int64_t i = 0; i < half_; ++i) angles_[i] = wide * frequencies[i];
    for (std::int64_t i = 0; i < half_; ++i) cos_sin(angles_[i], cosines_[i], sines_[i]);
    for (float& cosine : cosines_) cosine = rounded(args_.q.dtype, cosine);
    for (float& sine : sines_) sine = rounded(args_.q.dtype, sine);
  }

  // All heads of token (b, s) of x [B, S, heads, D].
  void heads(const ArrayView& x, const ArrayView& weight, const ArrayView& out, std::int64_t b, std::int64_t s) {
    const std::int64_t bytes = dtype_bytes(x.dtype);
    const char* source = x.as<char>() + (b * x.stride(0) + s * x.stride(1)) * bytes;
    char* target = out.as<char>() + (b * x.size(1) + s) * x.size(2) * depth_ * bytes;
    for (std::int64_t h = 0; h < x.size(2); ++h) {
      kernels_.rotate_head({source + h * x.stride(2) * bytes, weight.data, buffer_.data(), target + h * depth_ * bytes,
                            cosines_.data(), sines_.data(), depth_, half_, static_cast<float>(args_.eps), clip_});
    }
  }

 private:
  const QkNormRopeArgs& args_;
  const RowKernels& kernels_;
  std::int64_t half_, depth_;
  float clip_;
  std::vector<float> angles_, cosines_, sines_;
  std::vector<float> buffer_;  // room for depth_ elements of either type
};

void rotate_tokens(const QkNormRopeArgs& args, std::int64_t begin, std::int64_t end) {
  TokenRotation rotation(args);
  for (std::int64_t token = begin; token < end; ++token) {
    const std::int64_t b = token / args.q.size(1), s = token % args.q.size(1);
    const std::int64_t offset = b * args.positions.stride(0) + s * args.positions.stride(1);
    rotation.set_position(args.positions.dtype == DType::kInt64 ? args.positions.as<std::int64_t>()[offset]
                                                                : args.positions.as<std::int32_t>()[offset]);
    rotation.heads(args.q, args.q_weight, args.q_out, b, s);
    rotation.heads(args.k, args.k_weight, args.k_out, b, s);
  }
}

}  // namespace

void check_qk_norm_rope(const QkNormRopeArgs& args, const Backend& backend) {
  Check(kOp, "q", args.q).on(backend).floating(backend);
  Check(kOp, "q", args.q).shape({kAnySize, kAnySize, kAnySize, kAnySize}).last_dim_contiguous();
  const std::int64_t batch = args.q.size(0), length = args.q.size(1), depth = args.q.size(3);
  Check(kOp, "k", args.k)
      .on(backend)
      .dtype({args.q.dtype})
      .shape({batch, length, kAnySize, depth})
      .last_dim_contiguous();
  require(kOp, "q", depth >= 1, "of head size at least 1", std::to_string(depth));
  if (args.q_weight.defined()) {
    Check(kOp, "q_weight", args.q_weight).on(backend).dtype({args.q.dtype}).shape({depth}).contiguous();
  }
  if (args.k_weight.defined()) {
    Check(kOp, "k_weight", args.k_weight).on(backend).dtype({args.q.dtype}).shape({depth}).contiguous();
  }
  Check(kOp, "positions", args.positions).on(backend).dtype({DType::kInt32, DType::kInt64}).shape({batch, length});
  Check(kOp, "frequencies", args.frequencies).on(backend).dtype({DType::kFloat32}).shape({kAnySize}).contiguous();
  require(kOp, "frequencies", 2 * args.frequencies.size(0) <= depth, "at most half of the head size",
          std::to_string(args.frequencies.size(0)));
  require(kOp, "eps", args.eps >= 0.0, "not negative", std::to_string(args.eps));
  require(kOp, "clip", !args.clip || *args.clip > 0, "positive", args.clip ? std::to_string(*args.clip) : "none");
  Check(kOp, "q_out", args.q_out).on(backend).dtype({args.q.dtype}).shape({batch, length, args.q.size(2), depth});
  Check(kOp, "k_out", args.k_out).on(backend).dtype({args.q.dtype}).shape({batch, length, args.k.size(2), depth});
  Check(kOp, "q_out", args.q_out).contiguous();
  Check(kOp, "k_out", args.k_out).contiguous();
}

void qk_norm_rope(const QkNormRopeArgs& args) {
  check_qk_norm_rope(args, kCpuBackend);
  const std::int64_t token_elements = (args.q.size(2) + args.k.size(2)) * args.q.size(3);
  parallel_for(0, args.q.size(0) * args.q.size(1), grain_of(2 * token_elements),
               [&](std::int64_t begin, std::int64_t end) { rotate_tokens(args, begin, end); });
}

}  // namespace llada

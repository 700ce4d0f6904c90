// One pass per token: its cos and sin once (fp32 angles as published, evaluated in double), then each head of q and k
// from memory to memory through one head-sized buffer.
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "common/check.h"
#include "common/parallel.h"
#include "norm_rope/norm_row.h"

namespace llada {
namespace {

constexpr const char* kOp = "qk_norm_rope";

// cos and sin of each angle: reduction to [-pi/4, pi/4] and Taylor sums in double, below one fp32 ulp after rounding.
// Branch-free, so that the loop vectorises.
void cos_sin(const float* angles, std::int64_t count, float* cosines, float* sines) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves the nearest integer in the low bits
  constexpr double kTwoOverPi = 0.63661977236758134308, kHalfPi = 1.57079632679489661923;
  constexpr double kHalfPiTail = 6.123233995736766e-17;
  for (std::int64_t i = 0; i < count; ++i) {
    const double angle = angles[i], shifted = angle * kTwoOverPi + kRound, quarter_turns = shifted - kRound;
    const double x = angle - quarter_turns * kHalfPi - quarter_turns * kHalfPiTail, y = x * x;
    const double sine =
        x * (1 + y * (-1.0 / 6 + y * (1.0 / 120 + y * (-1.0 / 5040 + y * (1.0 / 362880 - y / 39916800)))));
    const double cosine =
        1 + y * (-0.5 + y * (1.0 / 24 + y * (-1.0 / 720 + y * (1.0 / 40320 + y * (-1.0 / 3628800 + y / 479001600)))));
    std::int64_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    const bool swap = (bits & 1) != 0;
    const double c = swap ? sine : cosine, s = swap ? cosine : sine;
    cosines[i] = static_cast<float>((bits + 1) & 2 ? -c : c);
    sines[i] = static_cast<float>(bits & 2 ? -s : s);
  }
}

template <class Element>
float rounded(float value) {
  return to_float(from_float<Element>(value));
}

template <class Element>
class TokenRotation {
 public:
  explicit TokenRotation(const QkNormRopeArgs& args)
      : args_(args),
        half_(args.frequencies.size(0)),
        depth_(args.q.size(3)),
        angles_(half_),
        cosines_(half_),
        sines_(half_),
        head_(depth_) {}

  void set_position(std::int64_t position) {
    const auto wide = static_cast<float>(position);
    const auto* frequencies = args_.frequencies.as<float>();
    for (std::int64_t i = 0; i < half_; ++i) angles_[i] = wide * frequencies[i];
    cos_sin(angles_.data(), half_, cosines_.data(), sines_.data());
    for (std::int64_t i = 0; i < half_; ++i) cosines_[i] = rounded<Element>(cosines_[i]);
    for (std::int64_t i = 0; i < half_; ++i) sines_[i] = rounded<Element>(sines_[i]);
  }

  void head(const Element* source, const ArrayView& weight, Element* out) {
    if (weight.defined()) {
      normalise_row(source, weight.as<Element>(), depth_, static_cast<float>(args_.eps), head_.data());
    } else {
      std::memcpy(head_.data(), source, depth_ * sizeof(Element));
    }
    if (args_.clip) clamp(rounded<Element>(static_cast<float>(*args_.clip)));
    for (std::int64_t i = 0; i < half_; ++i) {
      const float first = to_float(head_[i]), second = to_float(head_[i + half_]);
      out[i] = from_float<Element>(rounded<Element>(first * cosines_[i]) + rounded<Element>(-second * sines_[i]));
      out[i + half_] =
          from_float<Element>(rounded<Element>(second * cosines_[i]) + rounded<Element>(first * sines_[i]));
    }
    for (std::int64_t i = 2 * half_; i < depth_; ++i) out[i] = head_[i];
  }

 private:
  // NaN passes, as in torch.clamp.
  void clamp(float limit) {
    for (Element& element : head_) {
      const float value = to_float(element);
      element = from_float<Element>(value < -limit ? -limit : value > limit ? limit : value);
    }
  }

  const QkNormRopeArgs& args_;
  std::int64_t half_, depth_;
  std::vector<float> angles_, cosines_, sines_;
  std::vector<Element> head_;
};

template <class Element>
void rotate_heads(TokenRotation<Element>& rotation, const ArrayView& x, const ArrayView& weight, const ArrayView& out,
                  std::int64_t b, std::int64_t s) {
  const Element* source = x.as<Element>() + b * x.stride(0) + s * x.stride(1);
  Element* target = out.as<Element>() + (b * x.size(1) + s) * x.size(2) * x.size(3);
  for (std::int64_t h = 0; h < x.size(2); ++h) {
    rotation.head(source + h * x.stride(2), weight, target + h * x.size(3));
  }
}

template <class Element>
void rotate_tokens(const QkNormRopeArgs& args, std::int64_t begin, std::int64_t end) {
  TokenRotation<Element> rotation(args);
  for (std::int64_t token = begin; token < end; ++token) {
    const std::int64_t b = token / args.q.size(1), s = token % args.q.size(1);
    const std::int64_t offset = b * args.positions.stride(0) + s * args.positions.stride(1);
    rotation.set_position(args.positions.dtype == DType::kInt64 ? args.positions.as<std::int64_t>()[offset]
                                                                : args.positions.as<std::int32_t>()[offset]);
    rotate_heads(rotation, args.q, args.q_weight, args.q_out, b, s);
    rotate_heads(rotation, args.k, args.k_weight, args.k_out, b, s);
  }
}

void check(const QkNormRopeArgs& args) {
  Check(kOp, "q", args.q).cpu().dtype({DType::kFloat32, DType::kBFloat16});
  Check(kOp, "q", args.q).shape({kAnySize, kAnySize, kAnySize, kAnySize}).last_dim_contiguous();
  const std::int64_t batch = args.q.size(0), length = args.q.size(1), depth = args.q.size(3);
  Check(kOp, "k", args.k).cpu().dtype({args.q.dtype}).shape({batch, length, kAnySize, depth}).last_dim_contiguous();
  require(kOp, "q", depth >= 1, "of head size at least 1", std::to_string(depth));
  if (args.q_weight.defined()) {
    Check(kOp, "q_weight", args.q_weight).cpu().dtype({args.q.dtype}).shape({depth}).contiguous();
  }
  if (args.k_weight.defined()) {
    Check(kOp, "k_weight", args.k_weight).cpu().dtype({args.q.dtype}).shape({depth}).contiguous();
  }
  Check(kOp, "positions", args.positions).cpu().dtype({DType::kInt32, DType::kInt64}).shape({batch, length});
  Check(kOp, "frequencies", args.frequencies).cpu().dtype({DType::kFloat32}).shape({kAnySize}).contiguous();
  require(kOp, "frequencies", 2 * args.frequencies.size(0) <= depth, "at most half of the head size",
          std::to_string(args.frequencies.size(0)));
  require(kOp, "clip", !args.clip || *args.clip > 0, "positive", args.clip ? std::to_string(*args.clip) : "none");
  Check(kOp, "q_out", args.q_out).cpu().dtype({args.q.dtype}).shape({batch, length, args.q.size(2), depth});
  Check(kOp, "k_out", args.k_out).cpu().dtype({args.q.dtype}).shape({batch, length, args.k.size(2), depth});
  Check(kOp, "q_out", args.q_out).contiguous();
  Check(kOp, "k_out", args.k_out).contiguous();
}

}  // namespace

void qk_norm_rope(const QkNormRopeArgs& args) {
  check(args);
  const std::int64_t token_elements = (args.q.size(2) + args.k.size(2)) * args.q.size(3);
  parallel_for(0, args.q.size(0) * args.q.size(1), grain_of(2 * token_elements),
               [&](std::int64_t begin, std::int64_t end) {
                 if (args.q.dtype == DType::kFloat32) {
                   rotate_tokens<float>(args, begin, end);
                 } else {
                   rotate_tokens<bfloat16>(args, begin, end);
                 }
               });
}

}  // namespace llada

// rms_norm, add_rms_norm: one block per row of H.
//
//   thread t owns elements [8t, 8t + 8), [8(t + 256), ...) of bf16 (4 of fp32): 16 bytes an access, kept in registers
//   up to the first round (H = 2048 in bf16 is exactly one); sum of squares: lane, warp, block, in an order that H
//   alone determines.
//
// qk_norm_rope: one block per token; its cos and sin once into shared memory, then kLanes lanes per head.
//
//   head of D:  | first half: R/2 | second half: R/2 | passed: D - R |      R = rotary dimension
//   unit u:       pack u  ........  pack u              one pack            u = lane, lane + kLanes, ...
//   A lane holds both ends of the pairs that it turns, so heads need no exchange but the sum of squares.
//
// Both are bound by memory; every rounding is where the CPU kernels and the published code have it.
#include "cuda/dispatch.h"
#include "cuda/launch.h"
#include "cuda/pack.h"
#include "cuda/reduce.h"
#include "norm_rope/cos_sin.h"
#include "norm_rope/norm_rope_cuda.h"

namespace llada::cuda {
namespace {

constexpr int kThreads = 256;

template <class Element>
__device__ __forceinline__ float rounded(float value) {
  return to_float(from_float<Element>(value));
}

template <int kPack, class Element>
__device__ __forceinline__ float sum_of_squares(const Vector<Element, kPack>& pack) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kPack; ++i) sum += to_float(pack.elements[i]) * to_float(pack.elements[i]);
  return sum;
}

// Rounded to the element type before the weight and after it.
template <int kPack, class Element>
__device__ __forceinline__ void scale(Vector<Element, kPack>& pack, const Vector<Element, kPack>& weight,
                                      float inverse) {
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    pack.elements[i] =
        from_float<Element>(rounded<Element>(to_float(pack.elements[i]) * inverse) * to_float(weight.elements[i]));
  }
}

template <class Element, bool kAdd>
__global__ void __launch_bounds__(kThreads) rms_norm_kernel(RmsNormParams params, bool aligned) {
  constexpr int kPack = kElementsPer16Bytes<Element>;
  using Pack = Vector<Element, kPack>;
  LLADA_SHARED_ARRAY(float, partial, kThreads / kWarpLanes);
  const std::int64_t hidden = params.hidden, row_start = blockIdx.x * hidden, first = threadIdx.x * kPack;
  const auto load = [&](const void* rows, std::int64_t row, std::int64_t start) {
    return load_pack<kPack>(static_cast<const Element*>(rows) + row + start, hidden - start, aligned);
  };
  const auto store = [&](void* rows, std::int64_t start, const Pack& pack) {
    store_pack<kPack>(static_cast<Element*>(rows) + row_start + start, pack, hidden - start, aligned);
  };
  const auto normalised = [&](std::int64_t start) {  // what is normalised: x, or its rounded sum with the residual
    Pack pack = load(params.x, row_start, start);
    if constexpr (kAdd) {
      const Pack residual = load(params.residual, row_start, start);
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        pack.elements[i] = from_float<Element>(to_float(pack.elements[i]) + to_float(residual.elements[i]));
      }
    }
    return pack;
  };

  Pack kept{}, weight{};
  float sum = 0.0f;
  for (std::int64_t start = first; start < hidden; start += kThreads * kPack) {
    const Pack pack = normalised(start);
    if (start == first) {
      kept = pack;
      weight = load(params.weight, 0, start);  // under way while the block sums
    }
    if constexpr (kAdd) store(params.total, start, pack);
    sum += sum_of_squares(pack);
  }
  sum = block_sum<kThreads>(sum, partial);
  const float inverse = 1.0f / sqrtf(sum / static_cast<float>(hidden) + params.eps);
  for (std::int64_t start = first; start < hidden; start += kThreads * kPack) {
    if (start != first) {
      kept = normalised(start);
      weight = load(params.weight, 0, start);
    }
    scale(kept, weight, inverse);
    store(params.out, start, kept);
  }
}

// Both ends of kPack pairs, or in `first` alone kPack elements that are passed.
template <class Element, int kPack>
struct Unit {
  Vector<Element, kPack> first, second;
};

template <class Element, int kPack>
class Head {
 public:
  __device__ Head(const QkNormRopeParams& params, bool aligned)
      : half_(params.half), pairs_(params.half / kPack), depth_(params.depth), aligned_(aligned) {}

  __device__ std::int64_t units() const { return pairs_ + (depth_ - 2 * half_) / kPack; }
  __device__ bool turns(std::int64_t unit) const { return unit < pairs_; }
  __device__ std::int64_t start(std::int64_t unit) const { return unit * kPack + (turns(unit) ? 0 : half_); }

  __device__ Unit<Element, kPack> load(const Element* head, std::int64_t unit) const {
    Unit<Element, kPack> result{};
    result.first = load_pack<kPack>(head + start(unit), kPack, aligned_);
    if (turns(unit)) result.second = load_pack<kPack>(head + start(unit) + half_, kPack, aligned_);
    return result;
  }

  __device__ void store(Element* head, std::int64_t unit, const Unit<Element, kPack>& value) const {
    store_pack<kPack>(head + start(unit), value.first, kPack, aligned_);
    if (turns(unit)) store_pack<kPack>(head + start(unit) + half_, value.second, kPack, aligned_);
  }

 private:
  std::int64_t half_, pairs_, depth_;
  bool aligned_;
};

// NaN passes, as in torch.clamp.
template <int kPack, class Element>
__device__ __forceinline__ void clamp(Vector<Element, kPack>& pack, float limit) {
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    const float value = to_float(pack.elements[i]);
    pack.elements[i] = from_float<Element>(value < -limit ? -limit : value > limit ? limit : value);
  }
}

// Each product is rounded before the sum, as in the published code.
template <class Element, int kPack>
__device__ __forceinline__ void turn(Unit<Element, kPack>& unit, const float* cosines, const float* sines) {
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    const float first = to_float(unit.first.elements[i]), second = to_float(unit.second.elements[i]);
    unit.first.elements[i] =
        from_float<Element>(rounded<Element>(first * cosines[i]) - rounded<Element>(second * sines[i]));
    unit.second.elements[i] =
        from_float<Element>(rounded<Element>(second * cosines[i]) + rounded<Element>(first * sines[i]));
  }
}

__device__ __forceinline__ float position_of(const QkNormRopeParams& params, std::int64_t b, std::int64_t s) {
  const std::int64_t at = b * params.position_batch_stride + s * params.position_token_stride;
  return params.wide_positions ? static_cast<float>(static_cast<const std::int64_t*>(params.positions)[at])
                               : static_cast<float>(static_cast<const std::int32_t*>(params.positions)[at]);
}

template <class Element, int kPack, int kLanes>
__global__ void __launch_bounds__(kThreads) qk_norm_rope_kernel(QkNormRopeParams params, bool aligned) {
  LLADA_DYNAMIC_SHARED(float, cosines);  // [half], then the sines
  float* sines = cosines + params.half;
  const std::int64_t token = blockIdx.x, b = token / params.length, s = token % params.length;
  const float position = position_of(params, b, s);
  for (std::int64_t i = threadIdx.x; i < params.half; i += kThreads) {
    float cosine, sine;
    cos_sin(position * params.frequencies[i], cosine, sine);
    cosines[i] = rounded<Element>(cosine);
    sines[i] = rounded<Element>(sine);
  }
  __syncthreads();

  const Head<Element, kPack> layout(params, aligned);
  const std::int64_t lane = threadIdx.x % kLanes, heads = params.q.num_heads + params.k.num_heads;
  const float limit = rounded<Element>(params.clip);
  for (std::int64_t group = 0; group < heads; group += kThreads / kLanes) {  // all lanes meet in the sums
    const std::int64_t of_both = group + threadIdx.x / kLanes;
    const bool active = of_both < heads, is_q = of_both < params.q.num_heads;
    const HeadsParams& side = is_q ? params.q : params.k;
    const std::int64_t h = is_q ? of_both : of_both - params.q.num_heads, units = active ? layout.units() : 0;
    const Element* head =
        static_cast<const Element*>(side.heads) + b * side.batch_stride + s * side.token_stride + h * side.head_stride;
    const auto* weight = static_cast<const Element*>(side.weight);
    Element* out = static_cast<Element*>(side.out) + (token * side.num_heads + h) * params.depth;
    Unit<Element, kPack> kept{};
    float sum = 0.0f;
    for (std::int64_t u = lane; u < units; u += kLanes) {
      const Unit<Element, kPack> unit = layout.load(head, u);
      if (u == lane) kept = unit;
      sum += sum_of_squares(unit.first) + sum_of_squares(unit.second);
    }
    sum = warp_sum<kLanes>(sum);
    const float inverse = 1.0f / sqrtf(sum / static_cast<float>(params.depth) + params.eps);
    for (std::int64_t u = lane; u < units; u += kLanes) {
      if (u != lane) kept = layout.load(head, u);
      if (weight != nullptr) {
        const Unit<Element, kPack> factors = layout.load(weight, u);
        scale(kept.first, factors.first, inverse);
        scale(kept.second, factors.second, inverse);
      }
      if (limit < INFINITY) {
        clamp(kept.first, limit);
        clamp(kept.second, limit);
      }
      if (layout.turns(u)) turn(kept, cosines + u * kPack, sines + u * kPack);
      layout.store(out, u, kept);
    }
  }
}

template <class Element>
bool aligned_heads(const HeadsParams& side) {
  const std::int64_t strides = side.batch_stride | side.token_stride | side.head_stride;
  return aligned_rows(side.heads, strides * static_cast<std::int64_t>(sizeof(Element))) &&
         aligned_rows(side.weight, 0) && aligned_rows(side.out, 0);
}

}  // namespace

int rms_norm_sm80(const RmsNormParams& params) {
  return dispatch_floating(params.dtype, [&](auto element) {
    using Element = decltype(element);
    const std::int64_t row_bytes = params.hidden * static_cast<std::int64_t>(sizeof(Element));
    bool aligned = true;
    for (const void* rows : {params.x, params.residual, params.weight, static_cast<const void*>(params.out),
                             static_cast<const void*>(params.total)}) {
      aligned = aligned && aligned_rows(rows, row_bytes);
    }
    const LaunchConfig config{dim3(static_cast<unsigned>(params.rows)), dim3(kThreads), 0, params.stream};
    if (params.residual != nullptr) return launch(config, rms_norm_kernel<Element, true>, params, aligned);
    return launch(config, rms_norm_kernel<Element, false>, params, aligned);
  });
}

int qk_norm_rope_sm80(const QkNormRopeParams& params) {
  return dispatch_floating(params.dtype, [&](auto element) {
    using Element = decltype(element);
    constexpr int kPack = kElementsPer16Bytes<Element>, kVectorLanes = 8;
    const LaunchConfig config{dim3(static_cast<unsigned>(params.batch * params.length)), dim3(kThreads),
                              2 * static_cast<std::size_t>(params.half) * sizeof(float), params.stream};
    if (params.depth % kPack == 0 && params.half % kPack == 0) {
      const bool aligned = aligned_heads<Element>(params.q) && aligned_heads<Element>(params.k);
      return launch(config, qk_norm_rope_kernel<Element, kPack, kVectorLanes>, params, aligned);
    }
    return launch(config, qk_norm_rope_kernel<Element, 1, kWarpLanes>, params, false);
  });
}

}  // namespace llada::cuda

// grouped_gemm and grouped_swiglu by product_sm80.h, on the checkpoint's own layout of the weights.
#include "grouped_gemm/product_sm80.h"

namespace llada::cuda {
namespace {

template <class Element>
struct Plain {
  using Output = Element;
  static constexpr bool kPaired = false;
  __device__ __forceinline__ float operator()(float sum, std::int64_t) const { return sum; }
};

template <class Element>
struct SwiGlu {
  using Output = Element;
  static constexpr bool kPaired = true;
  __device__ __forceinline__ float operator()(float gate, float up) const { return gate / (1.0f + expf(-gate)) * up; }
};

}  // namespace

int grouped_gemm_sm80(const ProductParams& params) {
  return launch_product(params, [](auto element) { return Plain<decltype(element)>(); });
}

int grouped_swiglu_sm80(const ProductParams& params) {
  return launch_product(params, [](auto element) { return SwiGlu<decltype(element)>(); });
}

}  // namespace llada::cuda

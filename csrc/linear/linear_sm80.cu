// linear by product_sm80.h: the one-group case, with the bias added before the only rounding.
#include "grouped_gemm/product_sm80.h"
#include "linear/linear_cuda.h"

namespace llada::cuda {
namespace {

template <class Element>
struct AddBias {
  using Output = Element;
  static constexpr bool kPaired = false;
  const Element* bias;  // [columns], or null
  std::int64_t columns;
  __device__ __forceinline__ float operator()(float sum, std::int64_t column) const {
    return bias != nullptr && column < columns ? sum + to_float(bias[column]) : sum;
  }
};

}  // namespace

int linear_sm80(const ProductParams& params, const void* bias) {
  return launch_product(params, [&](auto element) {
    using Element = decltype(element);
    return AddBias<Element>{static_cast<const Element*>(bias), params.columns};
  });
}

}  // namespace llada::cuda

// linear by product_sm80.h: the one-group case, with the bias added before the only rounding.
#include "grouped_gemm/product_epilogues.h"
#include "grouped_gemm/product_sm80.h"
#include "linear/linear_cuda.h"

namespace llada::cuda {

int linear_sm80(const ProductParams& params, const void* bias) {
  return launch_product<true>(params, [&](auto element) {
    using Element = decltype(element);
    return AddBias<Element>{static_cast<const Element*>(bias), params.columns};
  });
}

}  // namespace llada::cuda

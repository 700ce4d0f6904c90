// grouped_gemm and grouped_swiglu by product_sm80.h, on the checkpoint's own layout of the weights.
#include "grouped_gemm/product_epilogues.h"
#include "grouped_gemm/product_sm80.h"

namespace llada::cuda {

int grouped_gemm_sm80(const ProductParams& params) {
  return launch_product(params, [](auto element) { return Plain<decltype(element)>(); });
}

int grouped_swiglu_sm80(const ProductParams& params) {
  return launch_product(params, [](auto element) { return SwiGlu<decltype(element)>(); });
}

}  // namespace llada::cuda

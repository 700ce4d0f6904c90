// grouped_gemm and grouped_swiglu by product_sm90.h, on the checkpoint's own layout of the weights.
#include "grouped_gemm/product_epilogues.h"
#include "grouped_gemm/product_sm90.h"

namespace llada::cuda {

int grouped_gemm_sm90(const ProductParams& params) {
  if (!can_stream<std::uint16_t>(params)) return grouped_gemm_sm80(params);
  return launch_stream_product(params, [](auto element) { return Plain<decltype(element)>(); });
}

int grouped_swiglu_sm90(const ProductParams& params) {
  if (!can_stream<std::uint16_t>(params)) return grouped_swiglu_sm80(params);
  return launch_stream_product(params, [](auto element) { return SwiGlu<decltype(element)>(); });
}

}  // namespace llada::cuda

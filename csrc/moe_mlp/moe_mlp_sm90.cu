// moe_mlp's products, by product_sm90.h: the first with the order of its rows where these are few; the second's rows
// stay in fp32 until they are combined.
#include "grouped_gemm/product_epilogues.h"
#include "grouped_gemm/product_sm90.h"
#include "moe_mlp/moe_mlp_cuda.h"

namespace llada::cuda {

int ordered_swiglu_sm90(const ProductParams& params, const ExpertOrderParams& sort) {
  if (!can_sort(sort) || !can_stream<std::uint16_t>(params)) {
    if (const int error = expert_order_sm80(sort)) return error;
    return grouped_swiglu_sm90(params);
  }
  int blocks = 0;
  if (const int error = multiprocessors(&blocks)) return error;
  return dispatch_16_bit(params.dtype, [&](auto element) {
    using Element = decltype(element);
    return launch_stream<Element, Element, StreamFewRows, true>(params, SwiGlu<Element>(), blocks, sort);
  });
}

int down_product_sm90(const ProductParams& params) {
  if (!can_stream<std::uint16_t>(params)) return down_product_sm80(params);
  return launch_stream_product(params, [](auto) { return Plain<float>(); });
}

}  // namespace llada::cuda

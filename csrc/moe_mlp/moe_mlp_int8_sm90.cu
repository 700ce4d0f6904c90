// moe_mlp's products with weights in bytes: a decode step reads half as much.
#include "grouped_gemm/product_epilogues.h"
#include "grouped_gemm/product_sm90.h"
#include "moe_mlp/moe_mlp_cuda.h"

namespace llada::cuda {
namespace {

template <bool kSorts, class MakeEpilogue>
int launch_int8(const ProductParams& params, const ExpertOrderParams& sort, MakeEpilogue make_epilogue) {
  int blocks = 0;
  if (const int error = multiprocessors(&blocks)) return error;
  return dispatch_16_bit(params.dtype, [&](auto element) {
    using Element = decltype(element);
    return launch_stream<Element, std::int8_t, StreamInt8, kSorts>(params, make_epilogue(element), blocks, sort);
  });
}

}  // namespace

int ordered_swiglu_int8_sm90(const ProductParams& params, const ExpertOrderParams& sort) {
  const auto swiglu = [](auto element) { return SwiGlu<decltype(element)>(); };
  const bool streams = can_stream<std::int8_t>(params);
  if (streams && can_sort(sort)) return launch_int8<true>(params, sort, swiglu);
  if (const int error = expert_order_sm80(sort)) return error;
  return streams ? launch_int8<false>(params, {}, swiglu) : swiglu_int8_sm80(params);
}

int down_product_int8_sm90(const ProductParams& params) {
  if (!can_stream<std::int8_t>(params)) return down_product_int8_sm80(params);
  return launch_int8<false>(params, {}, [](auto) { return Plain<float>(); });
}

}  // namespace llada::cuda

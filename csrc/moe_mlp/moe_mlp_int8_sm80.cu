// moe_mlp's products with weights in bytes: a decode step reads half as much. On any architecture by product_sm80.h.
#include "grouped_gemm/product_epilogues.h"
#include "grouped_gemm/product_sm80.h"
#include "moe_mlp/moe_mlp_cuda.h"

namespace llada::cuda {
namespace {

using Int8Rows = TileShape<32, 1, 3, 4, 2, 2>;  // 72 KB

template <class MakeEpilogue>
int launch_int8(const ProductParams& params, MakeEpilogue make_epilogue) {
  return dispatch_16_bit(params.dtype, [&](auto element) -> int {
    using Element = decltype(element);
    const auto epilogue = make_epilogue(element);
    const bool aligned = aligned_rows(params.x, params.x_stride * static_cast<std::int64_t>(sizeof(Element))) &&
                         aligned_rows(params.weight, params.weight_stride | params.group_stride);
    if (!aligned) return launch_tiles<Element, std::int8_t, Int8Rows, false>(params, epilogue);
    return launch_tiles<Element, std::int8_t, Int8Rows, true>(params, epilogue);
  });
}

}  // namespace

int swiglu_int8_sm80(const ProductParams& params) {
  return launch_int8(params, [](auto element) { return SwiGlu<decltype(element)>(); });
}

int down_product_int8_sm80(const ProductParams& params) {
  return launch_int8(params, [](auto) { return Plain<float>(); });
}

}  // namespace llada::cuda

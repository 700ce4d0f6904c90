// linear by product_sm90.h: the one-group case, with the bias added before the only rounding.
#include "grouped_gemm/product_epilogues.h"
#include "grouped_gemm/product_sm90.h"
#include "linear/linear_cuda.h"

namespace llada::cuda {

int linear_sm90(const ProductParams& params, const void* bias) {
  if (!can_stream<std::uint16_t>(params)) return linear_sm80(params, bias);
  return launch_stream_product<true>(params, [&](auto element) {
    using Element = decltype(element);
    return AddBias<Element>{static_cast<const Element*>(bias), params.columns};
  });
}

}  // namespace llada::cuda

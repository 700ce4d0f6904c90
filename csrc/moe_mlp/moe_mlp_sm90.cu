// moe_mlp's second product, by product_sm90.h: its rows stay in fp32 until they are combined.
#include "grouped_gemm/product_epilogues.h"
#include "grouped_gemm/product_sm90.h"
#include "moe_mlp/moe_mlp_cuda.h"

namespace llada::cuda {

int down_product_sm90(const ProductParams& params) {
  if (!can_stream(params)) return down_product_sm80(params);
  return launch_stream_product(params, [](auto) { return Plain<float>(); });
}

}  // namespace llada::cuda

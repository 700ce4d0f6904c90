// moe_mlp's second product, by product_sm80.h: its rows stay in fp32 until they are combined.
#include "grouped_gemm/product_epilogues.h"
#include "grouped_gemm/product_sm80.h"
#include "moe_mlp/moe_mlp_cuda.h"

namespace llada::cuda {

int down_product_sm80(const ProductParams& params) {
  return launch_product(params, [](auto) { return Plain<float>(); });
}

}  // namespace llada::cuda

#include "cpu/vector_avx512.h"
// The tile's body needs the vector above.
#include "attention/attention_product_impl.h"
#include "attention/attention_score_rows_avx512.h"

namespace llada {

AttentionKernel attention_kernel_avx512(bool bf16) {
  AttentionKernel kernel = bf16 ? kernel_of<bfloat16>() : kernel_of<float>();
  kernel.score_rows = bf16 ? run_score_rows<bfloat16> : run_score_rows<float>;
  return kernel;
}

}  // namespace llada

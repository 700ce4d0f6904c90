#include "cpu/vector_avx512fma.h"
// The tile's body needs the vector above.
#include "attention/attention_product_avx512fma.h"
#include "attention/attention_score_rows_avx512.h"

namespace llada {

AttentionKernel attention_kernel_bf16_avx512fma() {
  AttentionKernel kernel = kernel_of<bfloat16>();
  kernel.score_rows = run_score_rows<bfloat16>;
  return kernel;
}

}  // namespace llada

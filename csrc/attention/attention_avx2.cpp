#include "cpu/vector_avx2.h"
// The tile's body needs the vector above.
#include "attention/attention_product_impl.h"
#include "attention/attention_tile_impl.h"

namespace llada {

AttentionKernel attention_kernel_avx2(bool bf16) { return bf16 ? kernel_of<bfloat16>() : kernel_of<float>(); }

}  // namespace llada

#include "cpu/vector_avx512.h"
// The tile's body needs the vector above.
#include "attention/attention_tile_impl.h"

namespace llada {

AttentionKernel attention_kernel_avx512(bool bf16) { return kernel_for(bf16); }

}  // namespace llada

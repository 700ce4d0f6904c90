#include "cpu/vector_avx2.h"
// The tile's body needs the vector above.
#include "attention/attention_tile_impl.h"

namespace llada {

AttentionKernel attention_kernel_avx2(bool bf16) { return kernel_for(bf16); }

}  // namespace llada

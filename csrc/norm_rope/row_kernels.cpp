#include "norm_rope/row_kernels.h"

namespace llada {

const RowKernels& select_row_kernels(DType dtype, Isa isa) {
#if defined(__x86_64__)
  if (is_avx512(isa)) return row_kernels_avx512(dtype);
  if (isa == Isa::kAvx2) return row_kernels_avx2(dtype);
#endif
  static_cast<void>(isa);
  return row_kernels_portable(dtype);
}

}  // namespace llada

#include "norm_rope/row_kernels_impl.h"

namespace llada {

const RowKernels& row_kernels_avx2(DType dtype) {
  return dtype == DType::kBFloat16 ? kRowKernels<bfloat16> : kRowKernels<float>;
}

}  // namespace llada

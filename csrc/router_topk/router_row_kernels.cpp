#include "router_topk/router_row_kernels.h"

namespace llada {

const RouterRowKernels& select_router_row_kernels(Isa isa) {
#if defined(__x86_64__)
  if (is_avx512(isa)) return router_row_kernels_avx512();
  if (isa == Isa::kAvx2) return router_row_kernels_avx2();
#endif
  static_cast<void>(isa);
  return router_row_kernels_portable();
}

}  // namespace llada

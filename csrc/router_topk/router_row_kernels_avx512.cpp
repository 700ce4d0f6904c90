#include "cpu/vector_avx512.h"
#include "router_topk/router_row_kernels_impl.h"

namespace llada {

const RouterRowKernels& router_row_kernels_avx512() { return kRouterRowKernels; }

}  // namespace llada

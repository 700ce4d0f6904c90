#include "cpu/vector_avx2.h"
#include "router_topk/router_row_kernels_impl.h"

namespace llada {

const RouterRowKernels& router_row_kernels_avx2() { return kRouterRowKernels; }

}  // namespace llada

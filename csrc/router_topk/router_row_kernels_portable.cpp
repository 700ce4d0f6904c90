#include "cpu/vector_portable.h"
#include "router_topk/router_row_kernels_impl.h"

namespace llada {

const RouterRowKernels& router_row_kernels_portable() { return kRouterRowKernels; }

}  // namespace llada

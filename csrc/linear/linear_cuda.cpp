#include "linear/linear_cuda.h"

#include "cuda/launch_report.h"
#include "cuda/select_path.h"
#include "grouped_gemm/grouped_gemm_cuda.h"
#include "linear/linear.h"

namespace llada::cuda {

void linear(const LinearArgs& args, const Stream& stream) {
  const ArrayView &x = args.x, &weight = args.weight, &y = args.y;
  const Rows rows = check_linear(args, backend_of(x));
  if (y.elements() == 0) return;
  const std::int64_t depth = weight.size(1), columns = weight.size(0);
  const auto launcher = active_path(backend_of(x)) == CudaPath::kSm90a ? linear_sm90 : linear_sm80;
  report("linear",
         launcher({x.dtype, x.data, rows.stride, weight.data, 0, weight.stride(0), nullptr, y.data, rows.count, depth,
                   columns, 1, stream.handle},
                  args.bias.data),
         stream);
}

}  // namespace llada::cuda

#include "grouped_gemm/grouped_gemm_cuda.h"

#include <limits>
#include <string>

#include "cuda/launch_report.h"
#include "cuda/select_path.h"
#include "grouped_gemm/grouped_gemm.h"

namespace llada::cuda {
namespace {

using Launcher = int (*)(const ProductParams&);

void run(const char* op, const GroupedGemmArgs& args, const Stream& stream, Launcher sm80, Launcher sm90) {
  const ArrayView &x = args.x, &weight = args.weight, &y = args.y;
  require(op, "x_sorted", x.size(0) <= std::numeric_limits<std::int32_t>::max(), "of fewer than 2^31 rows",
          std::to_string(x.size(0)));
  if (y.elements() == 0) return;
  const Launcher launcher = active_path(backend_of(x)) == CudaPath::kSm90a ? sm90 : sm80;
  report(op,
         launcher({x.dtype, x.data, x.stride(0), weight.data, weight.stride(0), weight.stride(1),
                   args.offsets.as<const std::int32_t>(), y.data, x.size(0), x.size(1), y.size(1), weight.size(0),
                   stream.handle}),
         stream);
}

}  // namespace

void grouped_gemm(const GroupedGemmArgs& args, const Stream& stream) {
  check_grouped_gemm(args, backend_of(args.x));
  run("grouped_gemm", args, stream, grouped_gemm_sm80, grouped_gemm_sm90);
}

void grouped_swiglu(const GroupedGemmArgs& args, const Stream& stream) {
  check_grouped_swiglu(args, backend_of(args.x));
  run("grouped_swiglu", args, stream, grouped_swiglu_sm80, grouped_swiglu_sm90);
}

}  // namespace llada::cuda

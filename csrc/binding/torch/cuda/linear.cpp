#include "linear/linear.h"

#include "binding/torch/cuda/door.h"
#include "binding/torch/schemas.h"
#include "linear/linear_cuda.h"

namespace {

using llada::Tensor;
using llada::view;

Tensor linear(Tensor x, Tensor weight, std::optional<Tensor> bias) {
  const auto sizes = x.sizes();
  STD_TORCH_CHECK(sizes.size() >= 1, "linear: x must have at least one dimension");
  STD_TORCH_CHECK(weight.dim() == 2, "linear: weight must have shape [N, K]");
  const llada::CudaCall call(x);
  std::vector<std::int64_t> out_sizes(sizes.begin(), sizes.end());
  out_sizes.back() = weight.size(0);
  Tensor y = llada::new_tensor(x, out_sizes);
  llada::cuda::linear({view(x), view(weight), false, view(bias), view(y)}, call.stream());
  return y;
}

}  // namespace

LLADA_CUDA_OPS(schemas::kLinear, m) { m.impl("linear", TORCH_BOX(&linear)); }

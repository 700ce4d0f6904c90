#include "norm_rope/norm_rope.h"

#include <tuple>

#include "binding/torch/cuda/door.h"
#include "binding/torch/schemas.h"
#include "norm_rope/norm_rope_cuda.h"

namespace {

using llada::Tensor;
using llada::view;

Tensor new_like(const Tensor& x) {
  const auto sizes = x.sizes();
  return llada::new_tensor(x, {sizes.begin(), sizes.end()});
}

Tensor rms_norm(Tensor x, Tensor weight, double eps) {
  const llada::CudaCall call(x);
  Tensor out = new_like(x);
  llada::cuda::rms_norm({view(x), {}, view(weight), eps, view(out), {}}, call.stream());
  return out;
}

std::tuple<Tensor, Tensor> add_rms_norm(Tensor x, Tensor residual, Tensor weight, double eps) {
  const llada::CudaCall call(x);
  Tensor out = new_like(x), total = new_like(x);
  llada::cuda::rms_norm({view(x), view(residual), view(weight), eps, view(out), view(total)}, call.stream());
  return {out, total};
}

std::tuple<Tensor, Tensor> qk_norm_rope(Tensor q, Tensor k, std::optional<Tensor> q_weight,
                                        std::optional<Tensor> k_weight, Tensor positions, Tensor frequencies,
                                        double eps, std::optional<double> clip) {
  const llada::CudaCall call(q);
  Tensor q_out = new_like(q), k_out = new_like(k);
  llada::cuda::qk_norm_rope({view(q), view(k), view(q_weight), view(k_weight), view(positions), view(frequencies), eps,
                             clip, view(q_out), view(k_out)},
                            call.stream());
  return {q_out, k_out};
}

}  // namespace

LLADA_CUDA_OPS(schemas::kNormRope, m) {
  m.impl("rms_norm", TORCH_BOX(&rms_norm));
  m.impl("add_rms_norm", TORCH_BOX(&add_rms_norm));
  m.impl("qk_norm_rope", TORCH_BOX(&qk_norm_rope));
}

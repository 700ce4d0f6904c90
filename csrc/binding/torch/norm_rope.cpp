#include "norm_rope/norm_rope.h"

#include <tuple>

#include "binding/torch/schemas.h"
#include "binding/torch/views.h"

namespace {

using llada::Tensor;

Tensor new_like(const Tensor& x) {
  const auto sizes = x.sizes();
  return llada::new_tensor(x, {sizes.begin(), sizes.end()});
}

Tensor rms_norm(Tensor x, Tensor weight, double eps) {
  Tensor out = new_like(x);
  llada::rms_norm({llada::view(x), {}, llada::view(weight), eps, llada::view(out), {}});
  return out;
}

std::tuple<Tensor, Tensor> add_rms_norm(Tensor x, Tensor residual, Tensor weight, double eps) {
  Tensor out = new_like(x), total = new_like(x);
  llada::rms_norm(
      {llada::view(x), llada::view(residual), llada::view(weight), eps, llada::view(out), llada::view(total)});
  return {out, total};
}

std::tuple<Tensor, Tensor> qk_norm_rope(Tensor q, Tensor k, std::optional<Tensor> q_weight,
                                        std::optional<Tensor> k_weight, Tensor positions, Tensor frequencies,
                                        double eps, std::optional<double> clip) {
  Tensor q_out = new_like(q), k_out = new_like(k);
  llada::qk_norm_rope({llada::view(q), llada::view(k), llada::view(q_weight), llada::view(k_weight),
                       llada::view(positions), llada::view(frequencies), eps, clip, llada::view(q_out),
                       llada::view(k_out)});
  return {q_out, k_out};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(llada_moe, m) {
  for (const char* schema : llada::schemas::kNormRope) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(llada_moe, CPU, m) {
  m.impl("rms_norm", TORCH_BOX(&rms_norm));
  m.impl("add_rms_norm", TORCH_BOX(&add_rms_norm));
  m.impl("qk_norm_rope", TORCH_BOX(&qk_norm_rope));
}

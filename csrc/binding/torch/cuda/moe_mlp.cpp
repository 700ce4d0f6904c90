#include "moe_mlp/moe_mlp.h"

#include "binding/torch/cuda/door.h"
#include "binding/torch/schemas.h"
#include "moe_mlp/moe_mlp_cuda.h"

namespace {

using llada::MoeMlpArgs;
using llada::ScalarType;
using llada::Tensor;
using llada::view;
using llada::cuda::MoeMlpWorkspace;
using llada::cuda::Stream;

// run(args, workspace, stream) gets both; the result is its y.
template <class Run>
Tensor with_workspace(const Tensor& x, const Tensor& weights, const Tensor& experts, const Tensor& gate_up,
                      const Tensor& down, bool packed, std::int64_t intermediate, Run run) {
  STD_TORCH_CHECK(x.dim() == 2, "moe_mlp: x must have shape [T, H]");
  STD_TORCH_CHECK(experts.dim() == 2, "moe_mlp: experts must have shape [T, k]");
  const llada::CudaCall call(x);
  const std::int64_t hidden = x.size(1);
  Tensor y = llada::new_tensor(x, {x.size(0), hidden});
  const llada::MoeMlpArgs args{view(x),    view(weights), view(experts), view(gate_up),
                               view(down), packed,        intermediate,  view(y)};
  const llada::cuda::MoeMlpSizes sizes = llada::cuda::moe_mlp_sizes(args);
  Tensor order = llada::new_tensor(x, {sizes.rows}, ScalarType::Int);
  Tensor offsets = llada::new_tensor(x, {gate_up.size(0) + 1}, ScalarType::Int);
  Tensor rows = llada::new_tensor(x, {sizes.rows, intermediate});
  Tensor outputs = llada::new_tensor(x, {sizes.rows, hidden}, ScalarType::Float);
  run(args, {view(order), view(offsets), view(rows), view(outputs)}, call.stream());
  return y;
}

Tensor moe_mlp(Tensor x, Tensor weights, Tensor experts, Tensor gate_up_proj, Tensor down_proj) {
  STD_TORCH_CHECK(gate_up_proj.dim() == 3, "moe_mlp: gate_up_proj must have shape [E, 2I, H]");
  STD_TORCH_CHECK(down_proj.dim() == 3, "moe_mlp: down_proj must have shape [E, H, I]");
  return with_workspace(x, weights, experts, gate_up_proj, down_proj, false, down_proj.size(2),
                        [](const MoeMlpArgs& args, const MoeMlpWorkspace& workspace, const Stream& stream) {
                          llada::cuda::moe_mlp(args, workspace, stream);
                        });
}

Tensor moe_mlp_int8(Tensor x, Tensor weights, Tensor experts, Tensor gate_up, Tensor gate_up_scale, Tensor down,
                    Tensor down_scale) {
  STD_TORCH_CHECK(gate_up.dim() == 3, "moe_mlp: gate_up must have shape [E, 2I, ceil16(H)]");
  return with_workspace(x, weights, experts, gate_up, down, true, gate_up.size(1) / 2,
                        [&](const MoeMlpArgs& args, const MoeMlpWorkspace& workspace, const Stream& stream) {
                          llada::cuda::moe_mlp_int8(args, {view(gate_up_scale), view(down_scale)}, workspace, stream);
                        });
}

}  // namespace

LLADA_CUDA_OPS(schemas::kMoeMlp, m) {
  m.impl("moe_mlp", TORCH_BOX(&moe_mlp));
  m.impl("moe_mlp_int8", TORCH_BOX(&moe_mlp_int8));
}

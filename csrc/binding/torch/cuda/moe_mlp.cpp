#include "moe_mlp/moe_mlp.h"

#include "binding/torch/cuda/door.h"
#include "binding/torch/schemas.h"
#include "moe_mlp/moe_mlp_cuda.h"

namespace {

using llada::ScalarType;
using llada::Tensor;
using llada::view;

Tensor moe_mlp(Tensor x, Tensor weights, Tensor experts, Tensor gate_up_proj, Tensor down_proj) {
  STD_TORCH_CHECK(x.dim() == 2, "moe_mlp: x must have shape [T, H]");
  STD_TORCH_CHECK(experts.dim() == 2, "moe_mlp: experts must have shape [T, k]");
  STD_TORCH_CHECK(gate_up_proj.dim() == 3, "moe_mlp: gate_up_proj must have shape [E, 2I, H]");
  STD_TORCH_CHECK(down_proj.dim() == 3, "moe_mlp: down_proj must have shape [E, H, I]");
  const llada::CudaCall call(x);
  const std::int64_t hidden = x.size(1), intermediate = down_proj.size(2);
  Tensor y = llada::new_tensor(x, {x.size(0), hidden});
  const llada::MoeMlpArgs args{view(x),         view(weights), view(experts), view(gate_up_proj),
                               view(down_proj), false,         intermediate,  view(y)};
  const llada::cuda::MoeMlpSizes sizes = llada::cuda::moe_mlp_sizes(args);
  Tensor order = llada::new_tensor(x, {sizes.rows}, ScalarType::Int);
  Tensor offsets = llada::new_tensor(x, {gate_up_proj.size(0) + 1}, ScalarType::Int);
  Tensor sort = llada::new_tensor(x, {sizes.sort}, ScalarType::Int);
  Tensor rows = llada::new_tensor(x, {sizes.rows, intermediate});
  Tensor outputs = llada::new_tensor(x, {sizes.rows, hidden}, ScalarType::Float);
  llada::cuda::moe_mlp(args, {view(order), view(offsets), view(sort), view(rows), view(outputs)}, call.stream());
  return y;
}

}  // namespace

LLADA_CUDA_OPS(schemas::kMoeMlp, m) { m.impl("moe_mlp", TORCH_BOX(&moe_mlp)); }

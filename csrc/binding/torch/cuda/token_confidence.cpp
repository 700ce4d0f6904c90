#include "binding/torch/token_confidence.h"

#include "binding/torch/cuda/door.h"
#include "binding/torch/schemas.h"
#include "token_confidence/token_confidence_cuda.h"

namespace {

void run(const llada::TokenConfidenceArgs& args, const llada::Tensor& hidden) {
  const llada::CudaCall call(hidden);
  const std::int64_t room = args.vocabulary >= 1 ? llada::cuda::token_confidence_workspace(args) : 0;
  const llada::Tensor workspace = llada::new_tensor(hidden, {room}, llada::ScalarType::Float);
  llada::cuda::token_confidence(args, llada::view(workspace), call.stream());
}

}  // namespace

LLADA_CUDA_OPS(schemas::kTokenConfidence, m) {
  m.impl("token_confidence", TORCH_BOX(&llada::token_confidence_door<&run>));
}

#include "binding/torch/token_confidence.h"

#include "binding/torch/cuda/door.h"
#include "binding/torch/schemas.h"
#include "token_confidence/token_confidence_cuda.h"

namespace {

using llada::Tensor;
using llada::view;

llada::TokenConfidenceTensors token_confidence(Tensor hidden, Tensor weight, bool packed, std::int64_t vocabulary,
                                               double temperature, std::int64_t seed, std::optional<Tensor> noise_keys,
                                               std::optional<Tensor> forbidden, std::int64_t mask_token) {
  const llada::CudaCall call(hidden);
  const llada::TokenConfidenceOutputs outputs(hidden);
  const llada::TokenConfidenceArgs args =
      outputs.args(hidden, weight, packed, vocabulary, temperature, seed, noise_keys, forbidden, mask_token);
  const std::int64_t room = vocabulary >= 1 ? llada::cuda::token_confidence_workspace(args) : 0;
  Tensor workspace = llada::new_tensor(hidden, {room}, llada::ScalarType::Float);
  llada::cuda::token_confidence(args, view(workspace), call.stream());
  return outputs.tensors();
}

}  // namespace

LLADA_CUDA_OPS(schemas::kTokenConfidence, m) { m.impl("token_confidence", TORCH_BOX(&token_confidence)); }

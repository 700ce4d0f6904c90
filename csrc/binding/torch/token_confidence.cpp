#include "binding/torch/token_confidence.h"

#include "binding/torch/schemas.h"

namespace {

using llada::Tensor;

llada::TokenConfidenceTensors token_confidence(Tensor hidden, Tensor weight, bool packed, std::int64_t vocabulary,
                                               double temperature, std::int64_t seed, std::optional<Tensor> noise_keys,
                                               std::optional<Tensor> forbidden, std::int64_t mask_token) {
  const llada::TokenConfidenceOutputs outputs(hidden);
  llada::token_confidence(
      outputs.args(hidden, weight, packed, vocabulary, temperature, seed, noise_keys, forbidden, mask_token));
  return outputs.tensors();
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(llada_moe, m) {
  for (const char* schema : llada::schemas::kTokenConfidence) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(llada_moe, CPU, m) { m.impl("token_confidence", TORCH_BOX(&token_confidence)); }

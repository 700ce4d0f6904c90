#include "binding/torch/token_confidence.h"

#include "binding/torch/schemas.h"

namespace {

void run_on_cpu(const llada::TokenConfidenceArgs& args, const llada::Tensor&) { llada::token_confidence(args); }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(llada_moe, m) {
  for (const char* schema : llada::schemas::kTokenConfidence) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(llada_moe, CPU, m) {
  m.impl("token_confidence", TORCH_BOX(&llada::token_confidence_door<&run_on_cpu>));
}

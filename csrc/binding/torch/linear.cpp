#include "linear/linear.h"

#include "binding/torch/schemas.h"
#include "binding/torch/views.h"

namespace {

using llada::Tensor;

Tensor run(const Tensor& x, const Tensor& weight, std::int64_t columns, bool packed,
           const std::optional<Tensor>& bias) {
  const auto sizes = x.sizes();
  STD_TORCH_CHECK(sizes.size() >= 1, "linear: x must have at least one dimension");
  std::vector<std::int64_t> out_sizes(sizes.begin(), sizes.end());
  out_sizes.back() = columns;
  Tensor y = llada::new_tensor(x, out_sizes);
  llada::linear({llada::view(x), llada::view(weight), packed, llada::view(bias), llada::view(y)});
  return y;
}

Tensor linear(Tensor x, Tensor weight, std::optional<Tensor> bias) {
  STD_TORCH_CHECK(weight.dim() == 2, "linear: weight must have shape [N, K]");
  return run(x, weight, weight.size(0), false, bias);
}

Tensor linear_packed(Tensor x, Tensor packed, std::int64_t out_features, std::optional<Tensor> bias) {
  STD_TORCH_CHECK(out_features >= 0, "linear: out_features must not be negative");
  return run(x, packed, out_features, true, bias);
}

void pack_linear(Tensor weight, Tensor packed) { llada::pack_linear(llada::view(weight), llada::view(packed)); }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(llada_moe, m) {
  for (const char* schema : llada::schemas::kLinear) m.def(schema);
  m.def("linear_packed(Tensor x, Tensor packed, int out_features, Tensor? bias=None) -> Tensor");
  m.def("pack_linear(Tensor weight, Tensor(a!) packed) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(llada_moe, CPU, m) {
  m.impl("linear", TORCH_BOX(&linear));
  m.impl("linear_packed", TORCH_BOX(&linear_packed));
  m.impl("pack_linear", TORCH_BOX(&pack_linear));
}

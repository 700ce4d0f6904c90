#include "token_confidence/token_confidence.h"

#include "binding/numpy/packed.h"
#include "common/check.h"

namespace llada {
namespace {

struct Options {
  double temperature;
  std::int64_t seed;
  py::handle noise_keys, forbidden;
  std::int64_t mask_token_id;
};

py::dict run(py::handle hidden, const Input& head, bool packed, std::int64_t vocabulary, const Options& options) {
  const Input inputs[] = {input(hidden), optional_input(options.noise_keys), optional_input(options.forbidden)};
  const ArrayView& rows = inputs[0].view;
  Check("token_confidence", "hidden", rows).shape({kAnySize, kAnySize});
  const std::vector<std::int64_t> sizes{rows.size(0)};
  Output token = output(DType::kInt32, sizes), runner_up = output(DType::kInt32, sizes);
  Output logprob = output(DType::kFloat32, sizes), runner_up_logprob = output(DType::kFloat32, sizes);
  Output entropy = output(DType::kFloat32, sizes), logsumexp = output(DType::kFloat32, sizes);
  {
    const py::gil_scoped_release release;
    token_confidence({rows, head.view, packed, vocabulary, options.temperature, options.seed, inputs[1].view,
                      inputs[2].view, options.mask_token_id, token.view, logprob.view, runner_up.view,
                      runner_up_logprob.view, entropy.view, logsumexp.view});
  }
  py::dict result;
  result["token"] = token.array;
  result["logprob"] = logprob.array;
  result["runner_up"] = runner_up.array;
  result["runner_up_logprob"] = runner_up_logprob.array;
  result["entropy"] = entropy.array;
  result["logsumexp"] = logsumexp.array;
  return result;
}

py::dict numpy_token_confidence(py::handle hidden, py::handle lm_head, double temperature, std::int64_t seed,
                                py::handle noise_keys, py::handle forbidden, std::int64_t mask_token_id) {
  const Input head = input(lm_head);
  Check("token_confidence", "lm_head", head.view).shape({kAnySize, kAnySize});
  return run(hidden, head, false, head.view.size(0), {temperature, seed, noise_keys, forbidden, mask_token_id});
}

py::dict numpy_token_confidence_packed(py::handle hidden, py::handle packed, std::int64_t vocabulary,
                                       double temperature, std::int64_t seed, py::handle noise_keys,
                                       py::handle forbidden, std::int64_t mask_token_id) {
  const Input head = packed_input("token_confidence", "packed", packed, 0);
  check_columns("token_confidence", "vocabulary", vocabulary, head.view.size(0));
  return run(hidden, head, true, vocabulary, {temperature, seed, noise_keys, forbidden, mask_token_id});
}

}  // namespace

void bind_token_confidence(py::module_& module) {
  module.def("token_confidence", &numpy_token_confidence, py::arg("hidden"), py::arg("lm_head"), py::kw_only(),
             py::arg("temperature") = 0.0, py::arg("seed") = 0, py::arg("noise_keys") = py::none(),
             py::arg("forbidden") = py::none(), py::arg("mask_token_id") = -1,
             "hidden [R, H], lm_head [V, H] -> dict of token, logprob, runner_up, runner_up_logprob, entropy, "
             "logsumexp, each [R]; the logits are never stored.");
  module.def("token_confidence_packed", &numpy_token_confidence_packed, py::arg("hidden"), py::arg("packed"),
             py::arg("vocabulary"), py::kw_only(), py::arg("temperature") = 0.0, py::arg("seed") = 0,
             py::arg("noise_keys") = py::none(), py::arg("forbidden") = py::none(), py::arg("mask_token_id") = -1,
             "The same with the V = vocabulary rows of a head from pack_linear.");
}

}  // namespace llada

#include "token_confidence/token_confidence.h"

#include "binding/numpy/arrays.h"
#include "common/check.h"

namespace llada {
namespace {

py::dict numpy_token_confidence(py::handle hidden, py::handle lm_head, double temperature, std::int64_t seed,
                                py::handle noise_keys, py::handle forbidden, std::int64_t mask_token_id) {
  const Input inputs[] = {input(hidden), input(lm_head), optional_input(noise_keys), optional_input(forbidden)};
  const ArrayView &rows = inputs[0].view, &head = inputs[1].view;
  Check("token_confidence", "hidden", rows).shape({kAnySize, kAnySize});
  Check("token_confidence", "lm_head", head).shape({kAnySize, rows.size(1)});
  const std::vector<std::int64_t> sizes{rows.size(0)};
  Output token = output(DType::kInt32, sizes), runner_up = output(DType::kInt32, sizes);
  Output logprob = output(DType::kFloat32, sizes), runner_up_logprob = output(DType::kFloat32, sizes);
  Output entropy = output(DType::kFloat32, sizes), logsumexp = output(DType::kFloat32, sizes);
  {
    const py::gil_scoped_release release;
    token_confidence({rows, head, false, head.size(0), temperature, seed, inputs[2].view, inputs[3].view, mask_token_id,
                      token.view, logprob.view, runner_up.view, runner_up_logprob.view, entropy.view, logsumexp.view});
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

}  // namespace

void bind_token_confidence(py::module_& module) {
  module.def("token_confidence", &numpy_token_confidence, py::arg("hidden"), py::arg("lm_head"), py::kw_only(),
             py::arg("temperature") = 0.0, py::arg("seed") = 0, py::arg("noise_keys") = py::none(),
             py::arg("forbidden") = py::none(), py::arg("mask_token_id") = -1,
             "hidden [R, H], lm_head [V, H] -> dict of token, logprob, runner_up, runner_up_logprob, entropy, "
             "logsumexp, each [R]; the logits are never stored.");
}

}  // namespace llada

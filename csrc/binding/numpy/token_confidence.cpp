#include "token_confidence/token_confidence.h"

#include <utility>

#include "binding/numpy/packed.h"
#include "common/check.h"

namespace llada {
namespace {

struct Options {
  py::handle temperature;
  std::int64_t seed;
  py::handle noise_keys, forbidden;
  std::int64_t mask_token_id;
  py::handle bias;
  std::int64_t top_k;
  double top_p;
};

py::dict run(py::handle hidden, const Input& head, bool packed, std::int64_t vocabulary, const Options& options) {
  const Input rows = input(hidden), noise_keys = optional_input(options.noise_keys);
  const Input forbidden = optional_input(options.forbidden);
  const bool one_temperature = PyFloat_Check(options.temperature.ptr()) || PyLong_Check(options.temperature.ptr());
  const Input temperatures = one_temperature ? Input{} : input(options.temperature);
  Input bias_tokens, bias_values;
  if (!options.bias.is_none()) {
    const auto pair = options.bias.cast<std::pair<py::object, py::object>>();
    bias_tokens = input(pair.first);
    bias_values = input(pair.second);
  }
  Check("token_confidence", "hidden", rows.view).shape({kAnySize, kAnySize});
  const std::vector<std::int64_t> sizes{rows.view.size(0)};
  Output token = output(DType::kInt32, sizes), runner_up = output(DType::kInt32, sizes);
  Output logprob = output(DType::kFloat32, sizes), runner_up_logprob = output(DType::kFloat32, sizes);
  Output entropy = output(DType::kFloat32, sizes), logsumexp = output(DType::kFloat32, sizes);
  const TokenConfidenceArgs args{.hidden = rows.view,
                                 .weight = head.view,
                                 .packed = packed,
                                 .vocabulary = vocabulary,
                                 .temperature = one_temperature ? options.temperature.cast<double>() : 0.0,
                                 .temperatures = temperatures.view,
                                 .seed = options.seed,
                                 .noise_keys = noise_keys.view,
                                 .forbidden = forbidden.view,
                                 .mask_token = options.mask_token_id,
                                 .bias_tokens = bias_tokens.view,
                                 .bias_values = bias_values.view,
                                 .top_k = options.top_k,
                                 .top_p = options.top_p,
                                 .token = token.view,
                                 .logprob = logprob.view,
                                 .runner_up = runner_up.view,
                                 .runner_up_logprob = runner_up_logprob.view,
                                 .entropy = entropy.view,
                                 .logsumexp = logsumexp.view};
  {
    const py::gil_scoped_release release;
    token_confidence(args);
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

py::dict numpy_token_confidence(py::handle hidden, py::handle lm_head, py::handle temperature, std::int64_t seed,
                                py::handle noise_keys, py::handle forbidden, std::int64_t mask_token_id,
                                py::handle bias, std::int64_t top_k, double top_p) {
  const Input head = input(lm_head);
  Check("token_confidence", "lm_head", head.view).shape({kAnySize, kAnySize});
  return run(hidden, head, false, head.view.size(0),
             {temperature, seed, noise_keys, forbidden, mask_token_id, bias, top_k, top_p});
}

py::dict numpy_token_confidence_packed(py::handle hidden, py::handle packed, std::int64_t vocabulary,
                                       py::handle temperature, std::int64_t seed, py::handle noise_keys,
                                       py::handle forbidden, std::int64_t mask_token_id, py::handle bias,
                                       std::int64_t top_k, double top_p) {
  const Input head = packed_input("token_confidence", "packed", packed, 0);
  check_columns("token_confidence", "vocabulary", vocabulary, head.view.size(0));
  return run(hidden, head, true, vocabulary,
             {temperature, seed, noise_keys, forbidden, mask_token_id, bias, top_k, top_p});
}

}  // namespace

void bind_token_confidence(py::module_& module) {
  module.def("token_confidence", &numpy_token_confidence, py::arg("hidden"), py::arg("lm_head"), py::kw_only(),
             py::arg("temperature") = 0.0, py::arg("seed") = 0, py::arg("noise_keys") = py::none(),
             py::arg("forbidden") = py::none(), py::arg("mask_token_id") = -1, py::arg("bias") = py::none(),
             py::arg("top_k") = 0, py::arg("top_p") = 1.0,
             "hidden [R, H], lm_head [V, H] -> dict of token, logprob, runner_up, runner_up_logprob, entropy, "
             "logsumexp, each [R]; the logits are never stored. temperature: one, or float32 [R]; bias: int64 tokens "
             "[R, S] and float32 values [R, S].");
  module.def("token_confidence_packed", &numpy_token_confidence_packed, py::arg("hidden"), py::arg("packed"),
             py::arg("vocabulary"), py::kw_only(), py::arg("temperature") = 0.0, py::arg("seed") = 0,
             py::arg("noise_keys") = py::none(), py::arg("forbidden") = py::none(), py::arg("mask_token_id") = -1,
             py::arg("bias") = py::none(), py::arg("top_k") = 0, py::arg("top_p") = 1.0,
             "The same with the V = vocabulary rows of a head from pack_linear.");
}

}  // namespace llada

#include "router_topk/router_topk.h"

#include "binding/numpy/arrays.h"
#include "common/check.h"

namespace llada {
namespace {

RouterScore parse_score(const std::string& name) {
  require("router_topk", "score", name == "softmax" || name == "sigmoid", "'softmax' or 'sigmoid'", name);
  return name == "softmax" ? RouterScore::kSoftmax : RouterScore::kSigmoid;
}

py::tuple numpy_router_topk(py::handle logits, std::int64_t k, const std::string& score, py::handle bias,
                            bool bias_in_weights, std::int64_t num_groups, std::int64_t topk_groups, bool renormalize,
                            double scale) {
  const Input inputs[] = {input(logits), optional_input(bias)};
  const ArrayView& rows = inputs[0].view;
  Check("router_topk", "logits", rows).shape({kAnySize, kAnySize});
  require("router_topk", "k", k >= 1 && k <= rows.size(1), "within 1 and the number of experts", std::to_string(k));
  Output weights = output(DType::kFloat32, {rows.size(0), k}), experts = output(DType::kInt32, {rows.size(0), k});
  const RouterScore kind = parse_score(score);
  {
    const py::gil_scoped_release release;
    router_topk({rows, k, kind, inputs[1].view, bias_in_weights, num_groups, topk_groups, renormalize, scale,
                 weights.view, experts.view});
  }
  return py::make_tuple(weights.array, experts.array);
}

}  // namespace

void bind_router_topk(py::module_& module) {
  module.def("router_topk", &numpy_router_topk, py::arg("logits"), py::arg("k"), py::kw_only(),
             py::arg("score") = "softmax", py::arg("bias") = py::none(), py::arg("bias_in_weights") = true,
             py::arg("num_groups") = 1, py::arg("topk_groups") = 1, py::arg("renormalize") = false,
             py::arg("scale") = 1.0, "logits [T, E] -> weights float32 [T, k], experts int32 [T, k].");
}

}  // namespace llada

#include "router_topk/router_topk.h"

#include "binding/numpy/arrays.h"
#include "common/check.h"

namespace llada {
namespace {

RouterScore parse_score(const char* op, const std::string& name) {
  require(op, "score", name == "softmax" || name == "sigmoid", "'softmax' or 'sigmoid'", name);
  return name == "softmax" ? RouterScore::kSoftmax : RouterScore::kSigmoid;
}

// Makes room for the choice and runs one of the two ops.
template <class Run>
py::tuple choose(const char* op, std::int64_t tokens, std::int64_t num_experts, RouterTopkArgs args, const Run& run) {
  require(op, "k", args.k >= 1 && args.k <= num_experts, "within 1 and the number of experts", std::to_string(args.k));
  Output weights = output(DType::kFloat32, {tokens, args.k}), experts = output(DType::kInt32, {tokens, args.k});
  args.weights = weights.view;
  args.experts = experts.view;
  {
    const py::gil_scoped_release release;
    run(args);
  }
  return py::make_tuple(weights.array, experts.array);
}

py::tuple numpy_router_topk(py::handle logits, std::int64_t k, const std::string& score, py::handle bias,
                            bool bias_in_weights, std::int64_t num_groups, std::int64_t topk_groups, bool renormalize,
                            double scale) {
  constexpr const char* op = "router_topk";
  const Input rows = input(logits), added = optional_input(bias);
  Check(op, "logits", rows.view).shape({kAnySize, kAnySize});
  const RouterTopkArgs args{
      rows.view, k, parse_score(op, score), added.view, bias_in_weights, num_groups, topk_groups, renormalize, scale,
      {},        {}};
  return choose(op, rows.view.size(0), rows.view.size(1), args, router_topk);
}

py::tuple numpy_router(py::handle x, py::handle gate_weight, std::int64_t k, const std::string& score, py::handle bias,
                       bool bias_in_weights, std::int64_t num_groups, std::int64_t topk_groups, bool renormalize,
                       double scale) {
  constexpr const char* op = "router";
  const Input rows = input(x), gate = input(gate_weight), added = optional_input(bias);
  Check(op, "x", rows.view).shape({kAnySize, kAnySize});
  Check(op, "gate_weight", gate.view).shape({kAnySize, kAnySize});
  const RouterTopkArgs args{
      {}, k, parse_score(op, score), added.view, bias_in_weights, num_groups, topk_groups, renormalize, scale, {}, {}};
  return choose(op, rows.view.size(0), gate.view.size(0), args,
                [&](const RouterTopkArgs& topk) { router({rows.view, gate.view, topk}); });
}

}  // namespace

void bind_router_topk(py::module_& module) {
  module.def("router_topk", &numpy_router_topk, py::arg("logits"), py::arg("k"), py::kw_only(),
             py::arg("score") = "softmax", py::arg("bias") = py::none(), py::arg("bias_in_weights") = true,
             py::arg("num_groups") = 1, py::arg("topk_groups") = 1, py::arg("renormalize") = false,
             py::arg("scale") = 1.0, "logits [T, E] -> weights float32 [T, k], experts int32 [T, k].");
  module.def("router", &numpy_router, py::arg("x"), py::arg("gate_weight"), py::arg("k"), py::kw_only(),
             py::arg("score") = "softmax", py::arg("bias") = py::none(), py::arg("bias_in_weights") = true,
             py::arg("num_groups") = 1, py::arg("topk_groups") = 1, py::arg("renormalize") = false,
             py::arg("scale") = 1.0, "The same with logits = x [T, H] gate_weight[E, H]^T, which are never stored.");
}

}  // namespace llada

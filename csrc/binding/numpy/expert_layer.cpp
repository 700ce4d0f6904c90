#include "expert_layer/expert_layer.h"

#include "binding/numpy/arrays.h"

namespace llada {
namespace {

py::tuple numpy_expert_layer(py::handle update, py::handle residual, py::handle norm_weight, py::handle gate_weight,
                             py::handle gate_up, py::handle down, std::int64_t intermediate_size, std::int64_t k,
                             double eps, py::handle bias, bool renormalize, double scale) {
  const Input stream[] = {input(update), input(residual), input(norm_weight)};
  const Input router[] = {input(gate_weight), optional_input(bias)};
  const Input experts[] = {input(gate_up), input(down)};
  Output out = output_like("expert_layer", "update", stream[0].view);
  Output total = output_like("expert_layer", "update", stream[0].view);
  {
    const py::gil_scoped_release release;
    expert_layer({stream[0].view, stream[1].view, stream[2].view, eps, router[0].view, router[1].view, k, renormalize,
                  scale, experts[0].view, experts[1].view, intermediate_size, out.view, total.view});
  }
  return py::make_tuple(out.array, total.array);
}

}  // namespace

void bind_expert_layer(py::module_& module) {
  module.def("expert_layer", &numpy_expert_layer, py::arg("update"), py::arg("residual"), py::arg("norm_weight"),
             py::arg("gate_weight"), py::arg("gate_up"), py::arg("down"), py::arg("intermediate_size"), py::arg("k"),
             py::kw_only(), py::arg("eps"), py::arg("bias") = py::none(), py::arg("renormalize") = false,
             py::arg("scale") = 1.0,
             "add_rms_norm, router and moe_mlp_packed in one call: update and residual [.., H] -> (what the experts "
             "add to the stream, update + residual). gate_up and down are from pack_experts.");
}

}  // namespace llada

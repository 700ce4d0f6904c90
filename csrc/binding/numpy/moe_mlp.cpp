#include "moe_mlp/moe_mlp.h"

#include "binding/numpy/packed.h"
#include "common/check.h"

namespace llada {
namespace {

py::object run(py::handle x, py::handle weights, py::handle experts, const Input& gate_up, const Input& down,
               bool packed, std::int64_t intermediate_size) {
  const Input inputs[] = {input(x), input(weights), input(experts)};
  const ArrayView& tokens = inputs[0].view;
  Check("moe_mlp", "x", tokens).dtype({DType::kFloat32, DType::kBFloat16}).shape({kAnySize, kAnySize});
  Output y = output(tokens.dtype, {tokens.size(0), tokens.size(1)});
  {
    const py::gil_scoped_release release;
    moe_mlp({tokens, inputs[1].view, inputs[2].view, gate_up.view, down.view, packed, intermediate_size, y.view});
  }
  return y.array;
}

py::object numpy_moe_mlp(py::handle x, py::handle weights, py::handle experts, py::handle gate_up_proj,
                         py::handle down_proj) {
  const Input down = input(down_proj);
  Check("moe_mlp", "down_proj", down.view).shape({kAnySize, kAnySize, kAnySize});
  return run(x, weights, experts, input(gate_up_proj), down, false, down.view.size(2));
}

py::object numpy_moe_mlp_packed(py::handle x, py::handle weights, py::handle experts, py::handle gate_up,
                                py::handle down, std::int64_t intermediate_size) {
  const Input panels = packed_input("moe_mlp", "gate_up", gate_up, 1),
              down_panels = packed_input("moe_mlp", "down", down, 1);
  check_columns("moe_mlp", "intermediate_size", intermediate_size, panels.view.size(1), kPanelColumns / 2);
  return run(x, weights, experts, panels, down_panels, true, intermediate_size);
}

}  // namespace

void bind_moe_mlp(py::module_& module) {
  module.def("moe_mlp", &numpy_moe_mlp, py::arg("x"), py::arg("weights"), py::arg("experts"), py::arg("gate_up_proj"),
             py::arg("down_proj"),
             "The expert layer: x [T, H], weights float32 and experts int32 or int64 [T, k], "
             "gate_up_proj [E, 2I, H], down_proj [E, H, I] -> y [T, H]. Expert index E adds nothing.");
  module.def("moe_mlp_packed", &numpy_moe_mlp_packed, py::arg("x"), py::arg("weights"), py::arg("experts"),
             py::arg("gate_up"), py::arg("down"), py::arg("intermediate_size"),
             "The same with both weights from pack_experts, I = intermediate_size.");
}

}  // namespace llada

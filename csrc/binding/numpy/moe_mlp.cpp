#include "moe_mlp/moe_mlp.h"

#include "binding/numpy/arrays.h"
#include "common/check.h"

namespace llada {
namespace {

py::object numpy_moe_mlp(py::handle x, py::handle weights, py::handle experts, py::handle gate_up_proj,
                         py::handle down_proj) {
  const Input inputs[] = {input(x), input(weights), input(experts), input(gate_up_proj), input(down_proj)};
  const ArrayView &tokens = inputs[0].view, &down = inputs[4].view;
  Check("moe_mlp", "x", tokens).dtype({DType::kFloat32, DType::kBFloat16}).shape({kAnySize, kAnySize});
  Check("moe_mlp", "down_proj", down).shape({kAnySize, kAnySize, kAnySize});
  Output y = output(tokens.dtype, {tokens.size(0), tokens.size(1)});
  {
    const py::gil_scoped_release release;
    moe_mlp({tokens, inputs[1].view, inputs[2].view, inputs[3].view, down, false, down.size(2), y.view});
  }
  return y.array;
}

}  // namespace

void bind_moe_mlp(py::module_& module) {
  module.def("moe_mlp", &numpy_moe_mlp, py::arg("x"), py::arg("weights"), py::arg("experts"), py::arg("gate_up_proj"),
             py::arg("down_proj"),
             "The expert layer: x [T, H], weights float32 and experts int32 [T, k], gate_up_proj [E, 2I, H], "
             "down_proj [E, H, I] -> y [T, H]. Expert index E adds nothing.");
}

}  // namespace llada

#include "grouped_gemm/grouped_gemm.h"

#include "binding/numpy/arrays.h"
#include "common/check.h"

namespace llada {
namespace {

template <void (*Op)(const GroupedGemmArgs&), int Halves>
py::object run(py::handle x_sorted, py::handle weight, py::handle offsets) {
  const Input inputs[] = {input(x_sorted), input(weight), input(offsets)};
  const ArrayView &x = inputs[0].view, &matrices = inputs[1].view;
  Check("grouped_gemm", "x_sorted", x).dtype({DType::kFloat32, DType::kBFloat16}).shape({kAnySize, kAnySize});
  Check("grouped_gemm", "weight", matrices).shape({kAnySize, kAnySize, kAnySize});
  Output y = output(x.dtype, {x.size(0), matrices.size(1) / Halves});
  {
    const py::gil_scoped_release release;
    Op({x, matrices, inputs[2].view, y.view});
  }
  return y.array;
}

}  // namespace

void bind_grouped_gemm(py::module_& module) {
  module.def("grouped_gemm", &run<grouped_gemm, 1>, py::arg("x_sorted"), py::arg("weight"), py::arg("offsets"),
             "y [A, N]: rows offsets[e] .. offsets[e + 1] of x_sorted [A, K] times weight[e] [N, K]^T.");
  module.def("grouped_swiglu", &run<grouped_swiglu, 2>, py::arg("x_sorted"), py::arg("gate_up_proj"),
             py::arg("offsets"), "y [A, I] = silu(gate) * up with gate_up_proj [E, 2I, H], gate rows first.");
}

}  // namespace llada

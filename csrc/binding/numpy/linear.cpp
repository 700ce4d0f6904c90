#include "linear/linear.h"

#include "binding/numpy/packed.h"
#include "common/check.h"

namespace llada {
namespace {

py::object run(py::handle x, const Input& weight, bool packed, std::int64_t columns, py::handle bias) {
  const Input inputs[] = {input(x), optional_input(bias)};
  const ArrayView& rows = inputs[0].view;
  Check("linear", "x", rows).dtype({DType::kFloat32, DType::kBFloat16});
  require("linear", "x", rows.rank >= 1, "an array of at least one dimension", "a scalar");
  std::vector<std::int64_t> sizes(rows.sizes.begin(), rows.sizes.begin() + rows.rank);
  sizes.back() = columns;
  Output y = output(rows.dtype, sizes);
  {
    const py::gil_scoped_release release;
    linear({rows, weight.view, packed, inputs[1].view, y.view});
  }
  return y.array;
}

py::object numpy_linear(py::handle x, py::handle weight, py::handle bias) {
  const Input matrix = input(weight);
  Check("linear", "weight", matrix.view).shape({kAnySize, kAnySize});
  return run(x, matrix, false, matrix.view.size(0), bias);
}

py::object numpy_linear_packed(py::handle x, py::handle packed, std::int64_t out_features, py::handle bias) {
  const Input panels = packed_input("linear", "packed", packed, 0);
  check_columns("linear", "out_features", out_features, panels.view.size(0));
  return run(x, panels, true, out_features, bias);
}

}  // namespace

void bind_linear(py::module_& module) {
  module.def("linear", &numpy_linear, py::arg("x"), py::arg("weight"), py::arg("bias") = py::none(),
             "y [.., N] = x [.., K] weight[N, K]^T + bias[N], float32 or bfloat16 with float32 accumulation.");
  module.def("linear_packed", &numpy_linear_packed, py::arg("x"), py::arg("packed"), py::arg("out_features"),
             py::arg("bias") = py::none(), "The same with the N = out_features rows of a weight from pack_linear.");
}

}  // namespace llada

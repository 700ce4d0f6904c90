#include "linear/linear.h"

#include "binding/numpy/arrays.h"
#include "common/check.h"

namespace llada {
namespace {

py::object numpy_linear(py::handle x, py::handle weight, py::handle bias) {
  const Input inputs[] = {input(x), input(weight), optional_input(bias)};
  const ArrayView &rows = inputs[0].view, &matrix = inputs[1].view;
  Check("linear", "weight", matrix).shape({kAnySize, kAnySize});
  Check("linear", "x", rows).dtype({DType::kFloat32, DType::kBFloat16});
  require("linear", "x", rows.rank >= 1, "an array of at least one dimension", "a scalar");
  std::vector<std::int64_t> sizes(rows.sizes.begin(), rows.sizes.begin() + rows.rank);
  sizes.back() = matrix.size(0);
  Output y = output(rows.dtype, sizes);
  {
    const py::gil_scoped_release release;
    linear({rows, matrix, false, inputs[2].view, y.view});
  }
  return y.array;
}

}  // namespace

void bind_linear(py::module_& module) {
  module.def("linear", &numpy_linear, py::arg("x"), py::arg("weight"), py::arg("bias") = py::none(),
             "y [.., N] = x [.., K] weight[N, K]^T + bias[N], float32 or bfloat16 with float32 accumulation.");
}

}  // namespace llada

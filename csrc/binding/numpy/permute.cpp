#include "permute/permute.h"

#include "binding/numpy/arrays.h"
#include "common/check.h"

namespace llada {
namespace {

py::tuple numpy_expert_order(py::handle experts, std::int64_t num_experts) {
  const Input choice = input(experts);
  require("expert_order", "num_experts", num_experts >= 1 && num_experts <= (1 << 24), "within 1 and 2^24",
          std::to_string(num_experts));
  Output order = output(DType::kInt32, {choice.view.elements()});
  Output offsets = output(DType::kInt32, {num_experts + 1});
  expert_order({choice.view, num_experts, order.view, offsets.view});
  return py::make_tuple(order.array, offsets.array);
}

py::object numpy_permute(py::handle x, py::handle order, std::int64_t k) {
  const Input inputs[] = {input(x), input(order)};
  const ArrayView& rows = inputs[0].view;
  Check("permute", "x", rows).dtype({DType::kFloat32, DType::kBFloat16}).shape({kAnySize, kAnySize});
  Output out = output(rows.dtype, {inputs[1].view.elements(), rows.size(1)});
  {
    const py::gil_scoped_release release;
    permute({rows, inputs[1].view, k, out.view});
  }
  return out.array;
}

py::object numpy_unpermute(py::handle y_sorted, py::handle order, py::handle weights) {
  const Input inputs[] = {input(y_sorted), input(order), input(weights)};
  const ArrayView &rows = inputs[0].view, &factors = inputs[2].view;
  Check("unpermute", "y_sorted", rows).dtype({DType::kFloat32, DType::kBFloat16}).shape({kAnySize, kAnySize});
  Check("unpermute", "weights", factors).shape({kAnySize, kAnySize});
  Output out = output(rows.dtype, {factors.size(0), rows.size(1)});
  {
    const py::gil_scoped_release release;
    unpermute({rows, inputs[1].view, factors, out.view});
  }
  return out.array;
}

}  // namespace

void bind_permute(py::module_& module) {
  module.def("expert_order", &numpy_expert_order, py::arg("experts"), py::arg("num_experts"),
             "Stable counting sort of experts [T, k] -> order int32 [T * k], offsets int32 [num_experts + 1].");
  module.def("permute", &numpy_permute, py::arg("x"), py::arg("order"), py::arg("k"),
             "Row i of the result is x[order[i] // k].");
  module.def("unpermute", &numpy_unpermute, py::arg("y_sorted"), py::arg("order"), py::arg("weights"),
             "y [T, H]: each token's rows times its weights [T, k], summed in slot order in float32.");
}

}  // namespace llada

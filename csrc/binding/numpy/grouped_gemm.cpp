#include "grouped_gemm/grouped_gemm.h"

#include "binding/numpy/packed.h"
#include "common/check.h"

namespace llada {
namespace {

using Op = void (*)(const GroupedGemmArgs&);

py::object run(const char* name, Op op, const Input& x_sorted, const Input& weight, bool packed, std::int64_t columns,
               const Input& offsets) {
  const ArrayView& x = x_sorted.view;
  Check(name, "x_sorted", x).dtype({DType::kFloat32, DType::kBFloat16}).shape({kAnySize, kAnySize});
  Output y = output(x.dtype, {x.size(0), columns});
  {
    const py::gil_scoped_release release;
    op({x, weight.view, packed, offsets.view, y.view});
  }
  return y.array;
}

py::object run_plain(const char* name, Op op, py::handle x_sorted, const char* weight_name, py::handle weight,
                     int halves, py::handle offsets) {
  const Input matrices = input(weight);
  Check(name, weight_name, matrices.view).shape({kAnySize, kAnySize, kAnySize});
  return run(name, op, input(x_sorted), matrices, false, matrices.view.size(1) / halves, input(offsets));
}

py::object numpy_grouped_gemm(py::handle x_sorted, py::handle weight, py::handle offsets) {
  return run_plain("grouped_gemm", grouped_gemm, x_sorted, "weight", weight, 1, offsets);
}

py::object numpy_grouped_swiglu(py::handle x_sorted, py::handle gate_up_proj, py::handle offsets) {
  return run_plain("grouped_swiglu", grouped_swiglu, x_sorted, "gate_up_proj", gate_up_proj, 2, offsets);
}

py::object numpy_grouped_gemm_packed(py::handle x_sorted, py::handle packed, std::int64_t out_features,
                                     py::handle offsets) {
  constexpr const char* name = "grouped_gemm";
  const Input panels = packed_input(name, "packed", packed, 1);
  check_columns(name, "out_features", out_features, panels.view.size(1));
  return run(name, grouped_gemm, input(x_sorted), panels, true, out_features, input(offsets));
}

py::object numpy_grouped_swiglu_packed(py::handle x_sorted, py::handle gate_up, std::int64_t intermediate_size,
                                       py::handle offsets) {
  constexpr const char* name = "grouped_swiglu";
  const Input panels = packed_input(name, "gate_up", gate_up, 1);
  check_columns(name, "intermediate_size", intermediate_size, panels.view.size(1), kPanelColumns / 2);
  return run(name, grouped_swiglu, input(x_sorted), panels, true, intermediate_size, input(offsets));
}

}  // namespace

void bind_grouped_gemm(py::module_& module) {
  module.def("grouped_gemm", &numpy_grouped_gemm, py::arg("x_sorted"), py::arg("weight"), py::arg("offsets"),
             "y [A, N]: rows offsets[e] .. offsets[e + 1] of x_sorted [A, K] times weight[e] [N, K]^T.");
  module.def("grouped_gemm_packed", &numpy_grouped_gemm_packed, py::arg("x_sorted"), py::arg("packed"),
             py::arg("out_features"), py::arg("offsets"),
             "The same with weights from pack_grouped, or the down part of pack_experts.");
  module.def("grouped_swiglu", &numpy_grouped_swiglu, py::arg("x_sorted"), py::arg("gate_up_proj"), py::arg("offsets"),
             "y [A, I] = silu(gate) * up with gate_up_proj [E, 2I, H], gate rows first.");
  module.def("grouped_swiglu_packed", &numpy_grouped_swiglu_packed, py::arg("x_sorted"), py::arg("gate_up"),
             py::arg("intermediate_size"), py::arg("offsets"), "The same with the gate_up part of pack_experts.");
}

}  // namespace llada

#include "norm_rope/norm_rope.h"

#include <pybind11/stl.h>

#include "binding/numpy/arrays.h"

namespace llada {
namespace {

py::object numpy_rms_norm(py::handle x, py::handle weight, double eps) {
  const Input inputs[] = {input(x), input(weight)};
  Output out = output_like("rms_norm", "x", inputs[0].view);
  {
    const py::gil_scoped_release release;
    rms_norm({inputs[0].view, {}, inputs[1].view, eps, out.view, {}});
  }
  return out.array;
}

py::tuple numpy_add_rms_norm(py::handle x, py::handle residual, py::handle weight, double eps) {
  const Input inputs[] = {input(x), input(residual), input(weight)};
  Output out = output_like("add_rms_norm", "x", inputs[0].view);
  Output total = output_like("add_rms_norm", "x", inputs[0].view);
  {
    const py::gil_scoped_release release;
    rms_norm({inputs[0].view, inputs[1].view, inputs[2].view, eps, out.view, total.view});
  }
  return py::make_tuple(out.array, total.array);
}

py::tuple numpy_qk_norm_rope(py::handle q, py::handle k, py::handle q_weight, py::handle k_weight, py::handle positions,
                             py::handle frequencies, double eps, std::optional<double> clip) {
  const Input inputs[] = {input(q),         input(k),          optional_input(q_weight), optional_input(k_weight),
                          input(positions), input(frequencies)};
  Output q_out = output_like("qk_norm_rope", "q", inputs[0].view);
  Output k_out = output_like("qk_norm_rope", "k", inputs[1].view);
  {
    const py::gil_scoped_release release;
    qk_norm_rope({inputs[0].view, inputs[1].view, inputs[2].view, inputs[3].view, inputs[4].view, inputs[5].view, eps,
                  clip, q_out.view, k_out.view});
  }
  return py::make_tuple(q_out.array, k_out.array);
}

}  // namespace

void bind_norm_rope(py::module_& module) {
  module.def("rms_norm", &numpy_rms_norm, py::arg("x"), py::arg("weight"), py::arg("eps"),
             "x / sqrt(mean(x^2) + eps), rounded to x's dtype, times weight [H].");
  module.def("add_rms_norm", &numpy_add_rms_norm, py::arg("x"), py::arg("residual"), py::arg("weight"), py::arg("eps"),
             "(rms_norm(x + residual), x + residual).");
  module.def(
      "qk_norm_rope", &numpy_qk_norm_rope, py::arg("q"), py::arg("k"), py::arg("q_weight"), py::arg("k_weight"),
      py::arg("positions"), py::arg("frequencies"), py::kw_only(), py::arg("eps"), py::arg("clip") = py::none(),
      "Per-head norm, clip and rotary embedding of q [B, S, Hq, D] and k; frequencies float32 [rotary_dim / 2].");
}

}  // namespace llada

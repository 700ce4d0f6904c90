#include "attention/attention.h"

#include <pybind11/stl.h>

#include "binding/numpy/arrays.h"
#include "common/check.h"

namespace llada {
namespace {

py::object numpy_attention(py::handle q, py::handle k, py::handle v, py::handle mask, py::handle key_range,
                           py::handle cu_seqlens, std::int64_t block_size, std::optional<double> scale) {
  const Input inputs[] = {
      input(q), input(k), input(v), optional_input(mask), optional_input(key_range), optional_input(cu_seqlens)};
  const ArrayView& queries = inputs[0].view;
  Check("attention", "q", queries).dtype({DType::kFloat32, DType::kBFloat16});
  Check("attention", "q", queries).shape({kAnySize, kAnySize, kAnySize, kAnySize});
  Output out = output(queries.dtype, {queries.size(0), queries.size(1), queries.size(2), queries.size(3)});
  {
    const py::gil_scoped_release release;
    attention({queries, inputs[1].view, inputs[2].view, inputs[3].view, inputs[4].view, inputs[5].view, block_size,
               scale, out.view});
  }
  return out.array;
}

}  // namespace

void bind_attention(py::module_& module) {
  module.def("attention", &numpy_attention, py::arg("q"), py::arg("k"), py::arg("v"), py::kw_only(),
             py::arg("mask") = py::none(), py::arg("key_range") = py::none(), py::arg("cu_seqlens") = py::none(),
             py::arg("block_size") = 0, py::arg("scale") = py::none(),
             "q [B, S, Hq, D], k and v [B, L, Hkv, D] -> [B, S, Hq, D], bidirectional. mask: bool [B or 1, Hq or 1, S, "
             "L], true = attend; key_range [B, 2]; cu_seqlens [n + 1]; block_size 0: not block-causal.");
}

}  // namespace llada

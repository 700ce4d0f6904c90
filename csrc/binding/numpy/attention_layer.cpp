#include "attention_layer/attention_layer.h"

#include "binding/numpy/arrays.h"
#include "common/check.h"

namespace llada {
namespace {

// The cache is written to; DLPack tensors of this protocol do not say whether they may be.
Input writeable_input(const char* op, const char* argument, py::handle array) {
  const bool good = !py::isinstance<py::array>(array) || py::reinterpret_borrow<py::array>(array).writeable();
  require(op, argument, good, "writeable", "a read-only array");
  return optional_input(array);
}

py::tuple numpy_attention_layer(py::handle update, py::handle residual, py::handle norm_weight, py::handle qkv_weight,
                                py::handle out_weight, py::handle positions, py::handle frequencies, std::int64_t heads,
                                std::int64_t key_heads, std::int64_t head_size, double eps, py::handle q_weight,
                                py::handle k_weight, py::handle qkv_bias, py::handle out_bias, py::handle cache,
                                py::handle key_range) {
  constexpr const char* op = "attention_layer";
  const Input stream[] = {optional_input(update), input(residual), input(norm_weight)};
  const Input weights[] = {input(qkv_weight), optional_input(qkv_bias), input(out_weight), optional_input(out_bias)};
  const Input heads_weights[] = {optional_input(q_weight), optional_input(k_weight)};
  const Input places[] = {input(positions), input(frequencies), writeable_input(op, "cache", cache),
                          optional_input(key_range)};
  Output out = output_like(op, "residual", stream[1].view);
  // Without an update the stream is the residual.
  Output total{stream[1].view, py::reinterpret_borrow<py::object>(residual)};
  if (stream[0].view.defined()) total = output_like(op, "residual", stream[1].view);
  {
    const py::gil_scoped_release release;
    attention_layer({stream[0].view, stream[1].view, stream[2].view, eps, weights[0].view, weights[1].view,
                     weights[2].view, weights[3].view, heads, key_heads, head_size, heads_weights[0].view,
                     heads_weights[1].view, places[0].view, places[1].view, places[2].view, places[3].view, out.view,
                     total.view});
  }
  return py::make_tuple(out.array, total.array);
}

}  // namespace

void bind_attention_layer(py::module_& module) {
  module.def("attention_layer", &numpy_attention_layer, py::arg("update"), py::arg("residual"), py::arg("norm_weight"),
             py::arg("qkv_weight"), py::arg("out_weight"), py::arg("positions"), py::arg("frequencies"), py::kw_only(),
             py::arg("heads"), py::arg("key_heads"), py::arg("head_size"), py::arg("eps"),
             py::arg("q_weight") = py::none(), py::arg("k_weight") = py::none(), py::arg("qkv_bias") = py::none(),
             py::arg("out_bias") = py::none(), py::arg("cache") = py::none(), py::arg("key_range") = py::none(),
             "add_rms_norm, linear_packed, qk_norm_rope, attention and linear_packed in one call: update [B, S, H] or "
             "None and residual [B, S, H] -> (what attention adds to the stream, update + residual). qkv_weight and "
             "out_weight are from pack_linear; cache [2, B, L, Hkv, D] is written at positions and attended to.");
}

}  // namespace llada

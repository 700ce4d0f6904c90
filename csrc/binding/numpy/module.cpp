// llada_moe_ops._C: the ops on NumPy arrays and DLPack tensors without torch, and what is not a tensor op.
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "binding/numpy/arrays.h"
#include "common/check.h"
#include "common/isa.h"
#include "common/parallel.h"

namespace llada {

// One file per op beside this one.
void bind_packing(py::module_& module);
void bind_linear(py::module_& module);
void bind_grouped_gemm(py::module_& module);
void bind_moe_mlp(py::module_& module);
void bind_token_confidence(py::module_& module);
void bind_router_topk(py::module_& module);
void bind_permute(py::module_& module);
void bind_norm_rope(py::module_& module);
void bind_attention(py::module_& module);
void bind_attention_layer(py::module_& module);
void bind_expert_layer(py::module_& module);
void bind_roofline(py::module_& module);
void bind_cuda(py::module_& module);

namespace {

std::vector<std::string> available_names() {
  std::vector<std::string> names;
  for (const Isa isa : available_isas()) names.emplace_back(isa_name(isa));
  return names;
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = LLADA_COMPILER;
  info["torch"] = LLADA_TORCH_VERSION;
  info["sanitize"] = LLADA_SANITIZE;
  return info;
}

void set_num_threads(int threads) {
  require("set_num_threads", "threads", threads >= 1, "at least 1", std::to_string(threads));
  set_pool_threads(threads);
}

void translate(std::exception_ptr error) {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const ValueError& bad) {
    py::set_error(PyExc_ValueError, bad.what());
  } catch (const TypeError& bad) {
    py::set_error(PyExc_TypeError, bad.what());
  }
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() =
      "The kernels of llada_moe_ops on NumPy arrays and DLPack tensors; build facts, instruction set, threads.";
  py::register_local_exception_translator(translate);
  bind_arrays(module);
  bind_packing(module);
  bind_linear(module);
  bind_grouped_gemm(module);
  bind_moe_mlp(module);
  bind_token_confidence(module);
  bind_router_topk(module);
  bind_permute(module);
  bind_norm_rope(module);
  bind_attention(module);
  bind_attention_layer(module);
  bind_expert_layer(module);
  bind_roofline(module);
  bind_cuda(module);
  module.def("build_info", &build_info, "Compiler, torch built against, sanitizer.");
  module.def(
      "isa", [] { return isa_name(active_isa()); },
      "The instruction set in force: avx512, avx512fma, avx2 or portable.");
  module.def("available_isas", &available_names, "The instruction sets this processor has, best first.");
  module.def("force_isa", &force_isa, py::arg("name"),
             "Force one of available_isas(); an empty name returns to the default choice.");
  module.def("num_threads", &num_threads, "Threads a kernel may use (torch's number once the torch ops are loaded).");
  module.def("set_num_threads", &set_num_threads, py::arg("threads"),
             "Threads of the pool used without torch; with the torch ops loaded use torch.set_num_threads.");
}

}  // namespace llada

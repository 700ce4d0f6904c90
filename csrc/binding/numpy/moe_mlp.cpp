#include "binding/numpy/arrays.h"
namespace llada {
void bind_moe_mlp(py::module_&) {}
}  // namespace llada

#include "binding/numpy/arrays.h"
namespace llada {
void bind_linear(py::module_&) {}
}  // namespace llada

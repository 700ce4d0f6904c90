// NumPy arrays and DLPack tensors as the core's views, and new arrays for results.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "common/array_view.h"

namespace llada {

namespace py = pybind11;

// A view and what keeps its memory alive. NumPy arrays and anything with __dlpack__ on the CPU are accepted; bfloat16
// comes only by DLPack (NumPy has no such dtype).
struct Input {
  ArrayView view;
  py::object owner;
};

Input input(py::handle array);

// None gives an undefined view.
Input optional_input(py::handle array);

// A bfloat16 result: exported by __dlpack__, or read as NumPy uint16 through `bits`.
struct BFloat16Array {
  std::shared_ptr<std::uint16_t[]> data;
  std::vector<std::int64_t> sizes;

  py::array bits() const;
  py::capsule dlpack() const;
};

// A new contiguous result: a NumPy array for float32, int32 and int64, a BFloat16Array for bfloat16.
struct Output {
  ArrayView view;
  py::object array;
};

Output output(DType dtype, const std::vector<std::int64_t>& sizes);

// As large as the argument and of its dtype, which must be float32 or bfloat16.
Output output_like(const char* op, const char* argument, const ArrayView& view);

void bind_arrays(py::module_& module);

}  // namespace llada

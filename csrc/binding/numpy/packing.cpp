#include <stdlib.h>

#include <functional>
#include <new>
#include <numeric>
#include <optional>
#include <string>

#include "binding/numpy/packed.h"
#include "common/check.h"
#include "common/large_pages.h"
#include "cpu/panel_format.h"
#include "cpu/panel_weights.h"
#include "linear/linear.h"
#include "moe_mlp/moe_mlp.h"

namespace llada {
namespace {

using Format = std::optional<std::string>;

// 64-byte aligned; in large pages where the system has them, since a stream of weights crosses many pages.
std::shared_ptr<void> room(std::int64_t bytes) {
  constexpr std::size_t kLine = 64;
  const std::size_t needed = static_cast<std::size_t>(bytes), alignment = needed < 2 * kLargePage ? kLine : kLargePage;
  const std::size_t size = (needed / alignment + 1) * alignment;
  void* memory = aligned_alloc(alignment, size);
  if (memory == nullptr) throw std::bad_alloc();
  prefer_large_pages(memory, size);
  return {memory, free};
}

PanelFormat parse_format(const char* op, const Format& name, DType dtype) {
  const PanelFormat kept = panel_format(dtype);
  if (!name) return kept;
  if (*name == "int8") return PanelFormat::kInt8;
  if (*name == "int4") return PanelFormat::kInt4;
  const std::string own = kept == PanelFormat::kBFloat16 ? "bf16" : "fp32";
  require(op, "format", *name == own, "'" + own + "' (the weight's own dtype), 'int8' or 'int4'", "'" + *name + "'");
  return kept;
}

// Uninitialised panels.
Output new_panels(const PackedShape& shape) {
  const std::vector<std::int64_t> sizes(shape.sizes().begin(), shape.sizes().end());
  const std::int64_t elements = std::accumulate(sizes.begin(), sizes.end(), std::int64_t{1}, std::multiplies<>());
  const std::shared_ptr<void> memory = room(elements * dtype_bytes(shape.dtype));
  if (shape.dtype == DType::kBFloat16) {
    const std::shared_ptr<std::uint16_t[]> bits(memory, static_cast<std::uint16_t*>(memory.get()));
    py::object array = py::cast(BFloat16Array{bits, sizes});
    return {input(array).view, array};
  }
  const py::capsule owner(new std::shared_ptr<void>(memory),
                          [](void* held) { delete static_cast<std::shared_ptr<void>*>(held); });
  py::array array(py::dtype(dtype_name(shape.dtype)), sizes, memory.get(), owner);
  return {input(array).view, array};
}

// Entry `index` of the first dimension, and of its second dimension the rows from `first_row` on.
ArrayView matrix_of(const ArrayView& view, std::int64_t index, std::int64_t first_row = 0, std::int64_t rows = -1) {
  ArrayView matrix = view;
  matrix.rank = view.rank - 1;
  for (int dim = 0; dim < matrix.rank; ++dim) {
    matrix.sizes[dim] = view.size(dim + 1);
    matrix.strides[dim] = view.stride(dim + 1);
  }
  if (rows >= 0) matrix.sizes[0] = rows;
  const std::int64_t offset = index * view.stride(0) + first_row * view.stride(1);
  matrix.data = view.as<char>() + offset * dtype_bytes(view.dtype);
  return matrix;
}

py::object numpy_pack_linear(py::handle weight, const Format& format) {
  const Input given = input(weight);
  const ArrayView& matrix = given.view;
  Check("pack_linear", "weight", matrix).dtype({DType::kFloat32, DType::kBFloat16}).shape({kAnySize, kAnySize});
  const PanelFormat kind = parse_format("pack_linear", format, matrix.dtype);
  Output panels = new_panels(packed_shape(kind, -1, matrix.size(0), matrix.size(1), false));
  {
    const py::gil_scoped_release release;
    pack_linear(matrix, panels.view);
  }
  return panels.array;
}

py::object numpy_pack_grouped(py::handle weight, const Format& format) {
  constexpr const char* op = "pack_grouped";
  const Input given = input(weight);
  const ArrayView& matrices = given.view;
  Check(op, "weight", matrices).dtype({DType::kFloat32, DType::kBFloat16}).shape({kAnySize, kAnySize, kAnySize});
  const PanelFormat kind = parse_format(op, format, matrices.dtype);
  Output panels = new_panels(packed_shape(kind, matrices.size(0), matrices.size(1), matrices.size(2), false));
  {
    const py::gil_scoped_release release;
    for (std::int64_t group = 0; group < matrices.size(0); ++group) {
      pack_weights(op, matrix_of(matrices, group), matrix_of(panels.view, group));
    }
  }
  return panels.array;
}

py::tuple numpy_pack_experts(py::handle gate_up_proj, py::handle down_proj, const Format& format) {
  constexpr const char* op = "pack_experts";
  const Input inputs[] = {input(gate_up_proj), input(down_proj)};
  const ArrayView &gate_up = inputs[0].view, &down = inputs[1].view;
  const Check check(op, "gate_up_proj", gate_up);
  check.dtype({DType::kFloat32, DType::kBFloat16}).shape({kAnySize, kAnySize, kAnySize}).last_dim_contiguous();
  require(op, "gate_up_proj", gate_up.size(1) % 2 == 0, "of an even second size", shape_text(gate_up));
  const std::int64_t experts = gate_up.size(0), intermediate = gate_up.size(1) / 2, hidden = gate_up.size(2);
  Check(op, "down_proj", down).dtype({gate_up.dtype}).shape({experts, hidden, intermediate}).last_dim_contiguous();
  const PanelFormat kind = parse_format(op, format, gate_up.dtype);
  Output gate_up_panels = new_panels(packed_shape(kind, experts, intermediate, hidden, true));
  Output down_panels = new_panels(packed_shape(kind, experts, hidden, intermediate, false));
  {
    const py::gil_scoped_release release;
    for (std::int64_t expert = 0; expert < experts; ++expert) {
      pack_expert({matrix_of(gate_up, expert, 0, intermediate), matrix_of(gate_up, expert, intermediate, intermediate),
                   matrix_of(down, expert), matrix_of(gate_up_panels.view, expert),
                   matrix_of(down_panels.view, expert)});
    }
  }
  return py::make_tuple(gate_up_panels.array, down_panels.array);
}

}  // namespace

Input packed_input(const char* op, const char* argument, py::handle array, int panel_dim) {
  Input result = input(array);
  const ArrayView& view = result.view;
  const Check check(op, argument, view);
  check.dtype({DType::kFloat32, DType::kBFloat16, DType::kInt8, DType::kUInt8});
  if (view.rank <= panel_dim) check.fail_value("be packed weights", "shape " + shape_text(view));
  return result;
}

void check_columns(const char* op, const char* argument, std::int64_t columns, std::int64_t panels, int panel_columns) {
  const std::int64_t most = panels * panel_columns;
  require(op, argument, columns >= 0 && columns <= most, "within 0 and the " + std::to_string(most) + " packed columns",
          std::to_string(columns));
}

void bind_packing(py::module_& module) {
  module.def("pack_linear", &numpy_pack_linear, py::arg("weight"), py::arg("format") = py::none(),
             "weight [N, K] -> its panels, for linear_packed and token_confidence_packed. format: 'int8' or 'int4' "
             "(quantised), or None for the weight's own, 'fp32' or 'bf16'.");
  module.def("pack_grouped", &numpy_pack_grouped, py::arg("weight"), py::arg("format") = py::none(),
             "weight [E, N, K] -> its panels [E, ..], for grouped_gemm_packed; format as for pack_linear.");
  module.def("pack_experts", &numpy_pack_experts, py::arg("gate_up_proj"), py::arg("down_proj"),
             py::arg("format") = py::none(),
             "gate_up_proj [E, 2I, H], gate rows first, and down_proj [E, H, I] -> (gate_up, down), panels for "
             "moe_mlp_packed; gate_up is also for grouped_swiglu_packed, down for grouped_gemm_packed.");
}

}  // namespace llada

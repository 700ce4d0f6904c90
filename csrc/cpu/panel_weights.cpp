#include "cpu/panel_weights.h"

#include <algorithm>

#include "common/check.h"
#include "common/parallel.h"

namespace llada {

int PanelWeights::columns_of(std::int64_t panel) const {
  return static_cast<int>(std::min<std::int64_t>(panel_columns(), columns - panel * panel_columns()));
}

const std::uint32_t* PanelWeights::panel(std::int64_t group, std::int64_t index, std::uint32_t* scratch) const {
  if (packed) {
    return reinterpret_cast<const std::uint32_t*>(data) + (group * panels() + index) * panel_size();
  }
  const std::int64_t bytes = dtype_bytes(dtype);
  const char* first = data + (group * group_stride + index * panel_columns() * row_stride) * bytes;
  const int count = columns_of(index);
  if (paired) {
    pack_half_panel(dtype, first, row_stride, count, k, scratch);
    pack_half_panel(dtype, first + columns * row_stride * bytes, row_stride, count, k, scratch + kPanelColumns / 2);
  } else {
    pack_panel(dtype, first, row_stride, count, k, scratch);
  }
  return scratch;
}

PanelWeights plain_weights(const ArrayView& view, bool paired) {
  const int rows = view.rank - 2;
  PanelWeights weights{.dtype = view.dtype,
                       .data = view.as<const char>(),
                       .packed = false,
                       .paired = paired,
                       .columns = paired ? view.size(rows) / 2 : view.size(rows),
                       .k = view.size(rows + 1)};
  weights.group_stride = view.rank == 3 ? view.stride(0) : 0;
  weights.row_stride = view.stride(rows);
  return weights;
}

PanelWeights packed_weights(const ArrayView& view, std::int64_t columns, std::int64_t k, bool paired) {
  return {
      .dtype = view.dtype, .data = view.as<const char>(), .packed = true, .paired = paired, .columns = columns, .k = k};
}

void check_packed(const char* op, const char* argument, const ArrayView& view, std::int64_t groups,
                  std::int64_t columns, std::int64_t k, bool paired) {
  require(op, argument, columns >= 0 && k >= 0, "of non-negative sizes", std::to_string(std::min(columns, k)));
  const Check check(op, argument, view);
  check.cpu().dtype({DType::kFloat32, DType::kBFloat16}).contiguous();
  const PanelWeights weights = packed_weights(view, columns, k, paired);
  const int values = lane_values(view.dtype);
  if (groups < 0) {
    check.shape({weights.panels(), weights.lanes(), kPanelColumns, values});
  } else {
    check.shape({groups, weights.panels(), weights.lanes(), kPanelColumns, values});
  }
}

void pack_weights(const PanelWeights& plain, std::uint32_t* target) {
  parallel_for(0, plain.panels(), grain_of(plain.panel_size()), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t panel = begin; panel < end; ++panel) plain.panel(0, panel, target + panel * plain.panel_size());
  });
}

void pack_pair(const PanelWeights& left, const PanelWeights& right, std::uint32_t* target) {
  constexpr int kHalf = kPanelColumns / 2;
  const std::int64_t bytes = dtype_bytes(left.dtype), panels = (left.columns + kHalf - 1) / kHalf;
  parallel_for(0, panels, grain_of(left.panel_size()), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t panel = begin; panel < end; ++panel) {
      const std::int64_t row = panel * kHalf;
      const int count = static_cast<int>(std::min<std::int64_t>(kHalf, left.columns - row));
      std::uint32_t* out = target + panel * left.panel_size();
      pack_half_panel(left.dtype, left.data + row * left.row_stride * bytes, left.row_stride, count, left.k, out);
      pack_half_panel(right.dtype, right.data + row * right.row_stride * bytes, right.row_stride, count, right.k,
                      out + kHalf);
    }
  });
}

}  // namespace llada

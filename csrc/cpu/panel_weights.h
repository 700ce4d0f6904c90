// The weights of one product, packed or plain, seen as panels.
//
// Plain weights [groups][N][K] are packed panel by panel into the calling thread's scratch as they are used. Packed
// weights are the panels themselves: [groups][panels][lanes][32][values per lane].
//
// A paired product (gate and up projections, rows 0..I-1 and I..2I-1) puts 16 gate and the 16 matching up columns side
// by side in each panel, so that SwiGLU needs one tile and nothing else.
#pragma once

#include <cstdint>

#include "common/array_view.h"
#include "cpu/panel_gemm.h"

namespace llada {

struct PanelWeights {
  DType dtype;
  const char* data;
  bool packed;
  bool paired;
  std::int64_t columns;  // N, or I when paired
  std::int64_t k;
  std::int64_t group_stride = 0;  // in elements, of plain weights
  std::int64_t row_stride = 0;

  std::int64_t lanes() const { return lane_count(dtype, k); }
  int panel_columns() const { return paired ? kPanelColumns / 2 : kPanelColumns; }
  std::int64_t panels() const { return (columns + panel_columns() - 1) / panel_columns(); }
  std::int64_t panel_size() const { return lanes() * kPanelColumns; }  // in 32-bit lanes
  int columns_of(std::int64_t panel) const;

  // The panel's lanes; `scratch` (panel_size) holds them when the weights are plain.
  const std::uint32_t* panel(std::int64_t group, std::int64_t index, std::uint32_t* scratch) const;

  // Where the memory of a panel begins, if it is one stretch: the panel, or plain rows that lie one after another.
  const char* stretch(std::int64_t group, std::int64_t index) const {
    if (packed) return data + (group * panels() + index) * panel_size() * 4;
    if (paired || row_stride != k) return nullptr;
    return data + (group * group_stride + index * kPanelColumns * row_stride) * dtype_bytes(dtype);
  }
};

// From a plain view [groups, N, K] or [N, K] whose last dimension is contiguous.
PanelWeights plain_weights(const ArrayView& view, bool paired);

// From a contiguous packed view; its sizes must agree with columns and k (checked by check_packed).
PanelWeights packed_weights(const ArrayView& view, std::int64_t columns, std::int64_t k, bool paired);

// Throws unless `view` is what packed_weights needs. groups < 0: no leading group dimension.
void check_packed(const char* op, const char* argument, const ArrayView& view, std::int64_t groups,
                  std::int64_t columns, std::int64_t k, bool paired);

// Packs all panels of plain weights [N, K], or the shared panels of two (gate and up), into `target`.
void pack_weights(const PanelWeights& plain, std::uint32_t* target);
void pack_pair(const PanelWeights& left, const PanelWeights& right, std::uint32_t* target);

}  // namespace llada

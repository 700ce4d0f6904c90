// The weights of one product, packed or plain, seen as panels.
//
// Plain weights [groups][N][K] are packed panel by panel into the calling thread's scratch as they are used. Packed
// weights are the panels themselves (panel_format.h): [groups][panels][panel_words]; as arrays, fp32 and bf16 ones have
// the sizes [.., panels, lanes, 32, values per lane], int8 and int4 ones [.., panels, bytes] of int8 and uint8. They
// say how many lanes or blocks K fills, not K: whoever packed them must know it.
//
// A paired product (gate and up projections, rows 0..I-1 and I..2I-1) puts 16 gate and the 16 matching up columns side
// by side in each panel, so that SwiGLU needs one tile and nothing else.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "common/array_view.h"
#include "cpu/panel_gemm.h"

namespace llada {

struct PanelWeights {
  PanelFormat format;
  const char* data;
  bool packed;
  bool paired;
  std::int64_t columns;  // N, or I when paired
  std::int64_t k;
  std::int64_t group_stride = 0;  // in elements, of plain weights
  std::int64_t row_stride = 0;

  std::int64_t lanes() const { return row_lanes(format, k); }
  std::int64_t words_per_row() const { return row_words(format, k); }
  int panel_columns() const { return paired ? kPanelColumns / 2 : kPanelColumns; }
  std::int64_t panels() const { return (columns + panel_columns() - 1) / panel_columns(); }
  std::int64_t panel_size() const { return panel_words(format, k); }       // as stored, in 32-bit words
  std::int64_t scratch_size() const { return expanded_words(format, k); }  // as multiplied
  int columns_of(std::int64_t panel) const;

  // Whether panel_gemm takes the panels as they lie in memory.
  bool ready() const { return packed && format != PanelFormat::kInt4; }

  // The panel as panel_gemm takes it; `scratch` (scratch_size) holds it unless it is ready.
  const std::uint32_t* panel(std::int64_t group, std::int64_t index, std::uint32_t* scratch) const;

  // Where the memory of a panel begins: the panel, or the first of its plain rows. What follows is worth fetching.
  const char* stretch(std::int64_t group, std::int64_t index) const;
  std::int64_t stretch_bytes() const { return (packed ? panel_size() : lanes() * kPanelColumns) * 4; }
};

// From a plain view [groups, N, K] or [N, K] whose last dimension is contiguous.
PanelWeights plain_weights(const ArrayView& view, bool paired);

// What packed weights are as an array.
struct PackedShape {
  DType dtype;
  int rank = 0;
  std::array<std::int64_t, ArrayView::kMaxRank> all_sizes{};

  std::span<const std::int64_t> sizes() const { return {all_sizes.data(), static_cast<std::size_t>(rank)}; }
};

// groups < 0: no leading dimension.
PackedShape packed_shape(PanelFormat format, std::int64_t groups, std::int64_t columns, std::int64_t k, bool paired);

// From a contiguous packed view, aligned to 32-bit words; its dtype tells the format. Throws unless they agree with
// groups (< 0: no leading dimension), columns, k, and with activations of `dtype`.
PanelWeights packed_weights(const char* op, const char* argument, const ArrayView& view, std::int64_t groups,
                            std::int64_t columns, std::int64_t k, bool paired, DType dtype);

// Packs plain weights [N, K], or two (gate and up) that share panels, into `packed`, quantising where its format asks
// for it.
void pack_weights(const char* op, const ArrayView& weight, const ArrayView& packed);
void pack_pair(const char* op, const ArrayView& gate, const ArrayView& up, const ArrayView& packed);

}  // namespace llada

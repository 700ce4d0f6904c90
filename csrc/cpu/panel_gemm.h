// The one CPU product every op is built from: a few rows times a panel of 32 output columns.
//
//   out[r][c] = sum over k of rows[r][k] * weight[c][k]        r < num_rows <= 12, c < 32, fp32 accumulation
//
// Lanes. Both operands are cut along k into 32-bit lanes: one fp32, or two bf16 (even k in the low half). A lane is
// what vfmadd / vdpbf16ps consumes, so fp32 and bf16 share every loop; a K that does not fill its last lane is
// padded with zeros.
//
//   panel  [lanes][32]        one weight panel: lane l of column c at panel[l * 32 + c]. A whole panel is one
//                             sequential stream, which DRAM delivers 1.5-2 x faster than 32 interleaved rows.
//   rows   [lanes][num_rows]  lane l of row r at rows[l * num_rows + r], broadcast against the panel.
//
// (Formats of fewer bits: panel_format.h.)
//
// An output element is summed over its lanes in rising order, in blocks of kLaneBlock whose sums are added up, whatever
// num_rows is: results do not depend on the batch around a row. Within an instruction set they are bitwise
// reproducible. One accumulator for a long fp32 sum would lose 2-3 x the accuracy of a library GEMM, blocks of 256
// lanes up to a fifth of it; blocks of 128 are more exact than one and take no longer.
#pragma once

#include <cstdint>

#include "common/array_view.h"
#include "common/isa.h"
#include "cpu/panel_format.h"

namespace llada {

inline constexpr int kMaxPanelRows = 12;
inline constexpr std::int64_t kLaneBlock = 128;

// k-values in one 32-bit lane.
inline constexpr int lane_values(DType dtype) { return dtype == DType::kBFloat16 ? 2 : 1; }

inline constexpr std::int64_t lane_count(DType dtype, std::int64_t k) {
  return (k + lane_values(dtype) - 1) / lane_values(dtype);
}

// How many bytes before they are multiplied lines are brought into L1: a panel's from L2; a panel's from memory, and
// those of rows.
inline constexpr std::int64_t kAheadOfCache = 1 << 11, kAheadOfMemory = 1 << 13;

struct PanelGemmArgs {
  const std::uint32_t* rows;
  const std::uint32_t* panel;
  int num_rows;
  std::int64_t lanes;
  float* out;
  std::int64_t out_stride;  // floats between rows of out
  // What to prefetch meanwhile: with each lane, the cache lines of the next_step <= 128 bytes at next, which then moves
  // on. Null where the panel is alone: a stream of which only its own lines are fetched.
  const void* next = nullptr;
  std::int64_t next_step = 0;
  // How many bytes ahead the panel's and the rows' own lines are fetched, not at all with 0.
  std::int64_t ahead = kAheadOfCache, rows_ahead = kAheadOfMemory;
  bool whole_lines = true;  // how the weights of a few rows are loaded
  bool into_l2 = false;     // what is fetched of weights goes to L2 rather than to L1
  // Where the int4 kernel leaves the expanded panel for later chunks (expanded_words); null: nowhere.
  std::uint32_t* expanded = nullptr;
};

using PanelGemm = void (*)(const PanelGemmArgs&);

// The micro-kernel for a format on an instruction set; int4 panels must have been expanded.
PanelGemm select_panel_gemm(PanelFormat format, Isa isa);

// The one that expands int4 panels in registers, which pays while there are few rows; null where there is none.
PanelGemm select_int4_gemm(Isa isa);

// An int4 panel as an int8 panel of expanded_words.
void expand_int4(const std::uint32_t* panel, std::int64_t lanes, std::uint32_t* expanded);

inline constexpr int kMaxWideRows = kMaxPanelRows;

// A product whose rows are read as they lie in memory, nothing packed, with two panels: panel_gemm's sums in its order.
struct WideGemmArgs {
  const char* rows;            // num_rows <= WideKernel::rows of `lanes` whole lanes each
  std::int64_t row_bytes;      // from one to the next
  const std::uint32_t* panel;  // the first
  std::int64_t panel_words;    // from there to the second
  int num_rows;
  int num_panels;      // 1 or 2
  std::int64_t lanes;  // of a long product a part: of whole kLaneBlocks unless it is the last
  bool first;          // false: add to out
  float* out;          // [num_panels][num_rows][32]
  const void* next;    // as above
  std::int64_t next_step;
};

using WideGemm = void (*)(const WideGemmArgs&);

struct WideKernel {
  WideGemm gemm = nullptr;  // null where an instruction set or format has none
  int rows = 0;             // that it takes
};

WideKernel select_wide_gemm(PanelFormat format, Isa isa);

// Packs num_rows rows (row r at source + r * row_stride elements, or at the gathered row index_of_row[r] when that
// is not null) of length k into `rows` above.
void pack_rows(DType dtype, const void* source, std::int64_t row_stride, const std::int32_t* index_of_row, int num_rows,
               std::int64_t k, std::uint32_t* rows);

// Packs up to 32 weight rows (column c of the panel is weight row c at source + c * row_stride) of length k into one
// panel; missing columns become zeros.
void pack_panel(DType dtype, const void* source, std::int64_t row_stride, int num_columns, std::int64_t k,
                std::uint32_t* panel);

// The same for 16 columns, the left or right half of a panel: rows of two matrices (gate and up) share a panel so.
void pack_half_panel(DType dtype, const void* source, std::int64_t row_stride, int num_columns, std::int64_t k,
                     std::uint32_t* panel);

}  // namespace llada

#include "cpu/panel_gemm.h"

#include <cstring>

#include "common/bfloat16.h"
#include "common/check.h"
#include "cpu/panel_gemm_isa.h"

namespace llada {
namespace {

template <int Values>
std::uint32_t last_lane(const void* row, std::int64_t lane, std::int64_t k) {
  if constexpr (Values == 1) {
    return static_cast<const std::uint32_t*>(row)[lane];
  } else {
    const auto* values = static_cast<const std::uint16_t*>(row);
    const std::uint32_t high = 2 * lane + 1 < k ? values[2 * lane + 1] : 0;
    return values[2 * lane] | high << 16;
  }
}

template <int Values>
void pack_rows_as(const void* source, std::int64_t row_stride, const std::int32_t* index_of_row, int num_rows,
                  std::int64_t k, std::uint32_t* rows) {
  constexpr std::int64_t kBytes = 4 / Values;
  const std::int64_t whole = k / Values, lanes = (k + Values - 1) / Values;
  const char* row[kMaxPanelRows];
  for (int r = 0; r < num_rows; ++r) {
    row[r] = static_cast<const char*>(source) + (index_of_row == nullptr ? r : index_of_row[r]) * row_stride * kBytes;
  }
  for (std::int64_t lane = 0; lane < whole; ++lane, rows += num_rows) {
    for (int r = 0; r < num_rows; ++r)
      std::memcpy(rows + r, row[r] + lane * 4, 4);  // a bf16 row may start at an odd one
  }
  for (int r = 0; r < num_rows && whole < lanes; ++r) rows[r] = last_lane<Values>(row[r], whole, k);
}

}  // namespace

void pack_half_panel_portable(DType dtype, const void* source, std::int64_t row_stride, int num_columns, std::int64_t k,
                              std::uint32_t* panel) {
  const std::int64_t lanes = lane_count(dtype, k);
  for (int c = 0; c < kPanelColumns / 2; ++c) {
    if (c >= num_columns) {
      for (std::int64_t lane = 0; lane < lanes; ++lane) panel[lane * kPanelColumns + c] = 0;
      continue;
    }
    const char* row = static_cast<const char*>(source) + c * row_stride * dtype_bytes(dtype);
    const std::int64_t whole = k / lane_values(dtype);
    for (std::int64_t lane = 0; lane < whole; ++lane) std::memcpy(panel + lane * kPanelColumns + c, row + lane * 4, 4);
    if (whole < lanes) panel[whole * kPanelColumns + c] = last_lane<2>(row, whole, k);
  }
}

PanelGemm select_panel_gemm(PanelFormat format, Isa isa) {
  struct Kernels {
    PanelGemm fp32, bf16, int8;
  };
  Kernels kernels{panel_gemm_fp32_portable, panel_gemm_bf16_portable, panel_gemm_int8_portable};
#if defined(__x86_64__)
  if (is_avx512(isa)) kernels = {panel_gemm_fp32_avx512, panel_gemm_bf16_avx512, panel_gemm_int8_avx512};
  if (isa == Isa::kAvx512Fma) kernels.bf16 = panel_gemm_bf16_avx512fma;
  if (isa == Isa::kAvx2) kernels = {panel_gemm_fp32_avx2, panel_gemm_bf16_avx2, panel_gemm_int8_avx2};
#endif
  static_cast<void>(isa);
  if (is_quantized(format)) return kernels.int8;
  return format == PanelFormat::kBFloat16 ? kernels.bf16 : kernels.fp32;
}

PanelGemm select_int4_gemm(Isa isa) {
#if defined(__x86_64__)
  if (is_avx512(isa)) return panel_gemm_int4_avx512;
#endif
  static_cast<void>(isa);
  return nullptr;
}

WideKernel select_wide_gemm(PanelFormat format, Isa isa) {
#if defined(__x86_64__)
  if (is_avx512(isa) && format == PanelFormat::kFloat32) return {wide_gemm_fp32_avx512, kWideRowsAvx512};
  if (isa == Isa::kAvx512 && format == PanelFormat::kBFloat16) return {wide_gemm_bf16_avx512, kWideRowsAvx512};
  if (isa == Isa::kAvx512Fma && format == PanelFormat::kBFloat16) return {wide_gemm_bf16_avx512fma, kMaxWideRows};
#endif
  static_cast<void>(isa);
  static_cast<void>(format);
  return {};
}

void expand_int4(const std::uint32_t* panel, std::int64_t lanes, std::uint32_t* expanded) {
#if defined(__x86_64__)
  if (is_avx512(active_isa())) return expand_int4_avx512(panel, lanes, expanded);
#endif
  expand_int4_portable(panel, lanes, expanded);
}

void pack_rows(DType dtype, const void* source, std::int64_t row_stride, const std::int32_t* index_of_row, int num_rows,
               std::int64_t k, std::uint32_t* rows) {
#if defined(__x86_64__)
  if (is_avx512(active_isa())) {
    return pack_rows_avx512(dtype, source, row_stride, index_of_row, num_rows, k, rows);
  }
#endif
  if (dtype == DType::kFloat32) {
    pack_rows_as<1>(source, row_stride, index_of_row, num_rows, k, rows);
  } else {
    pack_rows_as<2>(source, row_stride, index_of_row, num_rows, k, rows);
  }
}

void pack_half_panel(DType dtype, const void* source, std::int64_t row_stride, int num_columns, std::int64_t k,
                     std::uint32_t* panel) {
#if defined(__x86_64__)
  switch (active_isa()) {
    case Isa::kAvx512:
    case Isa::kAvx512Fma:
      return pack_half_panel_avx512(dtype, source, row_stride, num_columns, k, panel);
    case Isa::kAvx2:
      return pack_half_panel_avx2(dtype, source, row_stride, num_columns, k, panel);
    case Isa::kPortable:
      break;
  }
#endif
  pack_half_panel_portable(dtype, source, row_stride, num_columns, k, panel);
}

void pack_panel(DType dtype, const void* source, std::int64_t row_stride, int num_columns, std::int64_t k,
                std::uint32_t* panel) {
  constexpr int kHalf = kPanelColumns / 2;
  const int left = num_columns < kHalf ? num_columns : kHalf;
  const char* right_source = static_cast<const char*>(source) + kHalf * row_stride * dtype_bytes(dtype);
  pack_half_panel(dtype, source, row_stride, left, k, panel);
  pack_half_panel(dtype, right_source, row_stride, num_columns - left, k, panel + kHalf);
}

}  // namespace llada

// What each instruction set provides to panel_gemm.cpp.
#pragma once

#include "cpu/panel_gemm.h"

namespace llada {

void panel_gemm_fp32_portable(const PanelGemmArgs& args);
void panel_gemm_bf16_portable(const PanelGemmArgs& args);
void panel_gemm_fp32_avx2(const PanelGemmArgs& args);
void panel_gemm_bf16_avx2(const PanelGemmArgs& args);
void panel_gemm_fp32_avx512(const PanelGemmArgs& args);
void panel_gemm_bf16_avx512(const PanelGemmArgs& args);
void panel_gemm_bf16_avx512fma(const PanelGemmArgs& args);

// Side by side the two panels take as many products for each load with 6 rows as one with 12, and 6 rows fit the eight
// ways of a set of L1 where they lie 4 KB or a multiple apart.
inline constexpr int kWideRowsAvx512 = 6;
void wide_gemm_fp32_avx512(const WideGemmArgs& args);
void wide_gemm_bf16_avx512(const WideGemmArgs& args);
void wide_gemm_bf16_avx512fma(const WideGemmArgs& args);

void panel_gemm_int8_portable(const PanelGemmArgs& args);
void panel_gemm_int8_avx2(const PanelGemmArgs& args);
void panel_gemm_int8_avx512(const PanelGemmArgs& args);
void panel_gemm_int4_avx512(const PanelGemmArgs& args);
void expand_int4_portable(const std::uint32_t* panel, std::int64_t lanes, std::uint32_t* expanded);
void expand_int4_avx512(const std::uint32_t* panel, std::int64_t lanes, std::uint32_t* expanded);

void pack_half_panel_portable(DType dtype, const void* source, std::int64_t row_stride, int num_columns, std::int64_t k,
                              std::uint32_t* panel);
void pack_half_panel_avx2(DType dtype, const void* source, std::int64_t row_stride, int num_columns, std::int64_t k,
                          std::uint32_t* panel);
void pack_rows_avx512(DType dtype, const void* source, std::int64_t row_stride, const std::int32_t* index_of_row,
                      int num_rows, std::int64_t k, std::uint32_t* rows);
void pack_half_panel_avx512(DType dtype, const void* source, std::int64_t row_stride, int num_columns, std::int64_t k,
                            std::uint32_t* panel);

}  // namespace llada

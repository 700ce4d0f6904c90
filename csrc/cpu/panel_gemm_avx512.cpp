// rows [lanes][num_rows] x panel [lanes][32]: 12 rows x 2 vectors = 24 accumulators, 2 panel vectors and one broadcast
// fill 27 of the 32 registers. Per lane: 2 loads, num_rows broadcasts, 2 x num_rows vfmadd or vdpbf16ps.
//
// Or num_rows rows [lanes] as they lie x two panels: 6 rows x 4 vectors = 24 accumulators, 4 panel vectors.
#include <immintrin.h>

#include <cstring>

#include "common/bfloat16.h"
#include "cpu/panel_gemm_isa.h"
#include "cpu/stream_avx512.h"
#include "cpu/transpose_avx512.h"

namespace llada {
namespace {

struct Fp32 {
  static LLADA_INLINE __m512 multiply_add(__m512 sum, __m512i row, __m512i column) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(row), _mm512_castsi512_ps(column), sum);
  }
};

struct Bf16 {
  static LLADA_INLINE __m512 multiply_add(__m512 sum, __m512i row, __m512i column) {
    return _mm512_dpbf16_ps(sum, (__m512bh)column, (__m512bh)row);
  }
};

template <class Element, int Rows>
void tile(const PanelGemmArgs& args) {
  Lanes<Rows> lanes(args);
  std::int64_t begin = 0;
  do {
    const std::int64_t end = begin + kLaneBlock < args.lanes ? begin + kLaneBlock : args.lanes;
    __m512 left[Rows], right[Rows];
    for (int r = 0; r < Rows; ++r) left[r] = right[r] = _mm512_setzero_ps();
    lanes.take(end - begin,
               [&](__m512i weights_left, __m512i weights_right, const std::uint32_t* rows) LLADA_INLINE_LAMBDA {
#pragma GCC unroll 12
                 for (int r = 0; r < Rows; ++r) {
                   const __m512i value = _mm512_set1_epi32(static_cast<int>(rows[r]));
                   left[r] = Element::multiply_add(left[r], value, weights_left);
                   right[r] = Element::multiply_add(right[r], value, weights_right);
                 }
               });
    for (int r = 0; r < Rows; ++r) {
      float* out = args.out + r * args.out_stride;
      _mm512_storeu_ps(out, begin == 0 ? left[r] : _mm512_add_ps(_mm512_loadu_ps(out), left[r]));
      _mm512_storeu_ps(out + 16, begin == 0 ? right[r] : _mm512_add_ps(_mm512_loadu_ps(out + 16), right[r]));
    }
    begin = end;
  } while (begin < args.lanes);
}

template <class Element>
void panel_gemm(const PanelGemmArgs& args) {
  static constexpr PanelGemm kTiles[kMaxPanelRows + 1] = {
      nullptr,           tile<Element, 1>,  tile<Element, 2>, tile<Element, 3>, tile<Element, 4>,
      tile<Element, 5>,  tile<Element, 6>,  tile<Element, 7>, tile<Element, 8>, tile<Element, 9>,
      tile<Element, 10>, tile<Element, 11>, tile<Element, 12>};
  kTiles[args.num_rows](args);
}

template <class Element, int Rows, int Panels>
void wide_tile(const WideGemmArgs& args) {
  constexpr int kVectors = 2 * Panels;
  const std::uint32_t* panel = args.panel;
  const char* next = static_cast<const char*>(args.next);
  const char* rows[Rows];
  for (int r = 0; r < Rows; ++r) rows[r] = args.rows + r * args.row_bytes;
  bool first = args.first;
  std::int64_t begin = 0;
  do {
    const std::int64_t end = begin + kLaneBlock < args.lanes ? begin + kLaneBlock : args.lanes;
    __m512 sums[Rows][kVectors];
    for (int r = 0; r < Rows; ++r) {
      for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm512_setzero_ps();
    }
    for (std::int64_t lane = begin; lane < end; ++lane, panel += kPanelColumns, next += args.next_step) {
      __m512i weights[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const std::uint32_t* columns = panel + v / 2 * args.panel_words + v % 2 * 16;
        weights[v] = _mm512_loadu_si512(columns);
        _mm_prefetch(reinterpret_cast<const char*>(columns) + kAheadOfCache, _MM_HINT_T0);
      }
      prefetch_lines<Fetch::kIntoL1>(next, args.next_step);
#pragma GCC unroll 6
      for (int r = 0; r < Rows; ++r) {
        int lane_of_row;
        std::memcpy(&lane_of_row, rows[r] + 4 * lane, 4);
        const __m512i value = _mm512_set1_epi32(lane_of_row);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sums[r][v] = Element::multiply_add(sums[r][v], value, weights[v]);
      }
    }
    for (int r = 0; r < Rows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        float* out = args.out + (v / 2 * Rows + r) * kPanelColumns + v % 2 * 16;
        _mm512_storeu_ps(out, first ? sums[r][v] : _mm512_add_ps(_mm512_loadu_ps(out), sums[r][v]));
      }
    }
    first = false;
    begin = end;
  } while (begin < args.lanes);
}

template <class Element>
void wide_gemm(const WideGemmArgs& args) {
  static constexpr WideGemm kTiles[kWideRowsAvx512 + 1][2] = {{nullptr, nullptr},
                                                              {wide_tile<Element, 1, 1>, wide_tile<Element, 1, 2>},
                                                              {wide_tile<Element, 2, 1>, wide_tile<Element, 2, 2>},
                                                              {wide_tile<Element, 3, 1>, wide_tile<Element, 3, 2>},
                                                              {wide_tile<Element, 4, 1>, wide_tile<Element, 4, 2>},
                                                              {wide_tile<Element, 5, 1>, wide_tile<Element, 5, 2>},
                                                              {wide_tile<Element, 6, 1>, wide_tile<Element, 6, 2>}};
  kTiles[args.num_rows][args.num_panels - 1](args);
}

// Calls store(l, lane l of all rows) for every lane of `count` <= Rows rows of row_bytes; absent rows give zeros.
template <int Rows, class Store>
LLADA_INLINE void transpose_rows(const char* (&row)[16], int count, std::int64_t row_bytes, const Store& store) {
  if (count == 0) {
    for (std::int64_t lane = 0; lane * 4 < row_bytes; ++lane) store(lane, _mm512_setzero_si512());
    return;
  }
  const __mmask16 present = static_cast<__mmask16>((1u << count) - 1);
  for (int r = count; r < 16; ++r) row[r] = row[0];
  __m512i block[16];
  const std::int64_t whole = row_bytes / 64 * 64;
  for (std::int64_t byte = 0; byte < whole; byte += 64) {
    transpose_block<Rows>(row, byte, block);
    for (int i = 0; i < 16; ++i) store(byte / 4 + i, _mm512_maskz_mov_epi32(present, block[i]));
  }
  if (whole == row_bytes) return;
  alignas(64) char tail[16][64];
  const __mmask64 rest = ~__mmask64{0} >> (64 - (row_bytes - whole));
  for (int r = 0; r < 16; ++r) {
    const __m512i bytes = r < count ? _mm512_maskz_loadu_epi8(rest, row[r] + whole) : _mm512_setzero_si512();
    _mm512_store_si512(tail[r], bytes);
    row[r] = tail[r];
  }
  transpose_block<Rows>(row, 0, block);
  for (int i = 0; i < (row_bytes - whole + 3) / 4; ++i) store(whole / 4 + i, block[i]);
}

}  // namespace

void panel_gemm_fp32_avx512(const PanelGemmArgs& args) { panel_gemm<Fp32>(args); }
void panel_gemm_bf16_avx512(const PanelGemmArgs& args) { panel_gemm<Bf16>(args); }
void wide_gemm_fp32_avx512(const WideGemmArgs& args) { wide_gemm<Fp32>(args); }
void wide_gemm_bf16_avx512(const WideGemmArgs& args) { wide_gemm<Bf16>(args); }

void pack_half_panel_avx512(DType dtype, const void* source, std::int64_t row_stride, int num_columns, std::int64_t k,
                            std::uint32_t* panel) {
  const std::int64_t bytes = dtype_bytes(dtype);
  const char* row[16];
  for (int c = 0; c < num_columns; ++c) row[c] = static_cast<const char*>(source) + c * row_stride * bytes;
  transpose_rows<16>(row, num_columns, k * bytes, [&](std::int64_t lane, __m512i columns) {
    _mm512_storeu_si512(panel + lane * kPanelColumns, columns);
  });
}

void pack_rows_avx512(DType dtype, const void* source, std::int64_t row_stride, const std::int32_t* index_of_row,
                      int num_rows, std::int64_t k, std::uint32_t* rows) {
  const std::int64_t bytes = dtype_bytes(dtype);
  const __mmask16 present = static_cast<__mmask16>((1u << num_rows) - 1);
  const char* row[16];
  for (int r = 0; r < num_rows; ++r) {
    row[r] = static_cast<const char*>(source) + (index_of_row == nullptr ? r : index_of_row[r]) * row_stride * bytes;
  }
  // A whole vector is stored where the lanes after it will overwrite the excess; near the end, only the rows present.
  const std::int64_t last_whole = (k * bytes + 3) / 4 * num_rows - 16;
  transpose_rows<kMaxPanelRows>(row, num_rows, k * bytes, [&](std::int64_t lane, __m512i values) {
    std::uint32_t* out = rows + lane * num_rows;
    if (lane * num_rows <= last_whole) {
      _mm512_storeu_si512(out, values);
    } else {
      _mm512_mask_storeu_epi32(out, present, values);
    }
  });
}

}  // namespace llada

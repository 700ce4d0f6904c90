// rows [lanes][num_rows] x panel [lanes][32]: 12 rows x 2 vectors = 24 accumulators, 2 panel vectors and one broadcast
// fill 27 of the 32 registers. Per lane: 2 loads, num_rows broadcasts, 2 x num_rows vfmadd or vdpbf16ps.
//
// The panel is read as one stream; 2 KB ahead hides DRAM's latency, and the prefetch runs on into the next panel.
#include <immintrin.h>

#include "common/bfloat16.h"
#include "cpu/panel_gemm_isa.h"

namespace llada {
namespace {

constexpr int kPrefetchBytes = 2048;

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
  const std::uint32_t* panel = args.panel;
  const std::uint32_t* rows = args.rows;
  std::int64_t begin = 0;
  do {
    const std::int64_t end = begin + kLaneBlock < args.lanes ? begin + kLaneBlock : args.lanes;
    __m512 left[Rows], right[Rows];
    for (int r = 0; r < Rows; ++r) left[r] = right[r] = _mm512_setzero_ps();
    for (std::int64_t lane = begin; lane < end; ++lane, panel += kPanelColumns, rows += Rows) {
      const __m512i weights_left = _mm512_loadu_si512(panel);
      const __m512i weights_right = _mm512_loadu_si512(panel + 16);
      _mm_prefetch(reinterpret_cast<const char*>(panel) + kPrefetchBytes, _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(panel) + kPrefetchBytes + 64, _MM_HINT_T0);
#pragma GCC unroll 12
      for (int r = 0; r < Rows; ++r) {
        const __m512i value = _mm512_set1_epi32(static_cast<int>(rows[r]));
        left[r] = Element::multiply_add(left[r], value, weights_left);
        right[r] = Element::multiply_add(right[r], value, weights_right);
      }
    }
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

// Transposes 16 vectors of 16 dwords: vector c becomes element c of each of the 16 results.
LLADA_INLINE void transpose(__m512i (&v)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    v[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    v[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    v[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// Lanes lane .. lane + 15 of a row of length k; zero past its end.
LLADA_INLINE __m512i load_lanes(const char* row, int values, std::int64_t lane, std::int64_t k) {
  const std::int64_t left = k - lane * values;
  const __mmask32 wanted = left >= 16 * values ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
  if (values == 2) return _mm512_maskz_loadu_epi16(wanted, row + lane * 4);
  return _mm512_maskz_loadu_epi32(static_cast<__mmask16>(wanted), row + lane * 4);
}

}  // namespace

void panel_gemm_fp32_avx512(const PanelGemmArgs& args) { panel_gemm<Fp32>(args); }
void panel_gemm_bf16_avx512(const PanelGemmArgs& args) { panel_gemm<Bf16>(args); }

void pack_half_panel_avx512(DType dtype, const void* source, std::int64_t row_stride, int num_columns, std::int64_t k,
                            std::uint32_t* panel) {
  const int values = dtype == DType::kBFloat16 ? 2 : 1;
  const std::int64_t row_bytes = row_stride * (4 / values), lanes = (k + values - 1) / values;
  const char* base = static_cast<const char*>(source);
  for (std::int64_t lane = 0; lane < lanes; lane += 16) {
    __m512i block[16];
    for (int c = 0; c < 16; ++c) {
      block[c] = c < num_columns ? load_lanes(base + c * row_bytes, values, lane, k) : _mm512_setzero_si512();
    }
    transpose(block);
    const int count = lanes - lane < 16 ? static_cast<int>(lanes - lane) : 16;
    for (int i = 0; i < count; ++i) _mm512_storeu_si512(panel + (lane + i) * kPanelColumns, block[i]);
  }
}

void pack_rows_avx512(DType dtype, const void* source, std::int64_t row_stride, const std::int32_t* index_of_row,
                      int num_rows, std::int64_t k, std::uint32_t* rows) {
  const int values = dtype == DType::kBFloat16 ? 2 : 1;
  const std::int64_t row_bytes = row_stride * (4 / values), lanes = (k + values - 1) / values;
  const __mmask16 kept = static_cast<__mmask16>((1u << num_rows) - 1);
  const char* row[kMaxPanelRows];
  for (int r = 0; r < num_rows; ++r) {
    row[r] = static_cast<const char*>(source) + (index_of_row == nullptr ? r : index_of_row[r]) * row_bytes;
  }
  for (std::int64_t lane = 0; lane < lanes; lane += 16) {
    __m512i block[16];
    for (int r = 0; r < 16; ++r) {
      block[r] = r < num_rows ? load_lanes(row[r], values, lane, k) : _mm512_setzero_si512();
    }
    transpose(block);
    const int count = lanes - lane < 16 ? static_cast<int>(lanes - lane) : 16;
    for (int i = 0; i < count; ++i) _mm512_mask_storeu_epi32(rows + (lane + i) * num_rows, kept, block[i]);
  }
}

}  // namespace llada

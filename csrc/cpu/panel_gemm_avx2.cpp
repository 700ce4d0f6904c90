// rows [lanes][num_rows] x panel [lanes][32] with 16 registers: 3 rows x 4 vectors (the whole panel as one stream) for
// few rows, 6 rows x 2 vectors (half a panel at a time) for more.
//
// A bf16 lane becomes two floats by a shift (even k) and a mask (odd k), so a lane costs two multiply-adds: even first.
#include <immintrin.h>

#include "common/bfloat16.h"
#include "cpu/panel_gemm_isa.h"

namespace llada {
namespace {

constexpr int kPrefetchBytes = 2048;

struct Fp32 {
  static constexpr int kValues = 1;
  template <int Value>
  static LLADA_INLINE __m256 floats(__m256i lane) {
    return _mm256_castsi256_ps(lane);
  }
};

struct Bf16 {
  static constexpr int kValues = 2;
  template <int Value>
  static LLADA_INLINE __m256 floats(__m256i lane) {
    if constexpr (Value == 0) return _mm256_castsi256_ps(_mm256_slli_epi32(lane, 16));
    return _mm256_castsi256_ps(_mm256_and_si256(lane, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }
};

template <class Element, int Value, int Rows, int Vectors>
LLADA_INLINE void accumulate(const std::uint32_t* rows, const std::uint32_t* panel, __m256 (&sums)[Rows][Vectors]) {
  __m256 weights[Vectors];
#pragma GCC unroll 4
  for (int v = 0; v < Vectors; ++v) {
    weights[v] = Element::template floats<Value>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + 8 * v)));
  }
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r) {
    const __m256 value = Element::template floats<Value>(_mm256_set1_epi32(static_cast<int>(rows[r])));
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sums[r][v] = _mm256_fmadd_ps(value, weights[v], sums[r][v]);
  }
}

template <class Element, int Rows, int Vectors>
void tile(const PanelGemmArgs& args, int first_row, int first_column) {
  const std::uint32_t* panel = args.panel + first_column;
  const std::uint32_t* rows = args.rows + first_row;
  std::int64_t begin = 0;
  do {
    const std::int64_t end = begin + kLaneBlock < args.lanes ? begin + kLaneBlock : args.lanes;
    __m256 sums[Rows][Vectors];
    for (int r = 0; r < Rows; ++r) {
      for (int v = 0; v < Vectors; ++v) sums[r][v] = _mm256_setzero_ps();
    }
    for (std::int64_t lane = begin; lane < end; ++lane, panel += kPanelColumns, rows += args.num_rows) {
      const char* ahead = reinterpret_cast<const char*>(panel) + kPrefetchBytes;
      _mm_prefetch(ahead, _MM_HINT_T0);
      if constexpr (Vectors == 4) _mm_prefetch(ahead + 64, _MM_HINT_T0);
      accumulate<Element, 0>(rows, panel, sums);
      if constexpr (Element::kValues == 2) accumulate<Element, 1>(rows, panel, sums);
    }
    for (int r = 0; r < Rows; ++r) {
      float* out = args.out + (first_row + r) * args.out_stride + first_column;
      for (int v = 0; v < Vectors; ++v, out += 8) {
        _mm256_storeu_ps(out, begin == 0 ? sums[r][v] : _mm256_add_ps(_mm256_loadu_ps(out), sums[r][v]));
      }
    }
    begin = end;
  } while (begin < args.lanes);
}

template <class Element, int Rows>
void row_block(const PanelGemmArgs& args, int first_row) {
  if constexpr (Rows <= 3) {
    tile<Element, Rows, 4>(args, first_row, 0);
  } else {
    tile<Element, Rows, 2>(args, first_row, 0);
    tile<Element, Rows, 2>(args, first_row, 16);
  }
}

template <class Element>
void panel_gemm(const PanelGemmArgs& args) {
  static constexpr void (*kBlocks[])(const PanelGemmArgs&, int) = {nullptr,
                                                                   row_block<Element, 1>,
                                                                   row_block<Element, 2>,
                                                                   row_block<Element, 3>,
                                                                   row_block<Element, 4>,
                                                                   row_block<Element, 5>,
                                                                   row_block<Element, 6>};
  // Two even blocks rather than six rows and a remainder.
  const int first = args.num_rows <= 6 ? args.num_rows : (args.num_rows + 1) / 2;
  kBlocks[first](args, 0);
  if (first < args.num_rows) kBlocks[args.num_rows - first](args, first);
}

// Transposes 8 vectors of 8 dwords.
LLADA_INLINE void transpose(__m256i (&v)[8]) {
  __m256i t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
    t[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    v[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
    v[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
    v[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
    v[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm256_permute2x128_si256(v[i], v[i + 4], 0x20);
    t[i + 4] = _mm256_permute2x128_si256(v[i], v[i + 4], 0x31);
  }
  for (int i = 0; i < 8; ++i) v[i] = t[i];
}

}  // namespace

void panel_gemm_fp32_avx2(const PanelGemmArgs& args) { panel_gemm<Fp32>(args); }
void panel_gemm_bf16_avx2(const PanelGemmArgs& args) { panel_gemm<Bf16>(args); }

void pack_half_panel_avx2(DType dtype, const void* source, std::int64_t row_stride, int num_columns, std::int64_t k,
                          std::uint32_t* panel) {
  const int values = dtype == DType::kBFloat16 ? 2 : 1;
  const std::int64_t row_bytes = row_stride * (4 / values), whole = k / values / 8 * 8;
  const char* base = static_cast<const char*>(source);
  for (std::int64_t lane = 0; lane < whole; lane += 8) {
    for (int half = 0; half < 16; half += 8) {
      __m256i block[8];
      for (int c = 0; c < 8; ++c) {
        const char* at = base + (half + c) * row_bytes + lane * 4;
        block[c] =
            half + c < num_columns ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)) : _mm256_setzero_si256();
      }
      transpose(block);
      for (int i = 0; i < 8; ++i) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(panel + (lane + i) * kPanelColumns + half), block[i]);
      }
    }
  }
  if (whole * values < k) {
    pack_half_panel_portable(dtype, base + whole * 4, row_stride, num_columns, k - whole * values,
                             panel + whole * kPanelColumns);
  }
}

}  // namespace llada

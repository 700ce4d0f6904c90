// The bf16 tiles of panel_gemm_avx512.cpp by vfmadd: a lane's two elements become floats, the even one by a shift and
// the odd one by a mask, and take a vfmadd each, even first.
//
//   rows   widened into L1, a block of lanes at a time, for each panel anew: 3 % of the products. To widen in registers
//          what is broadcast would take a third of them.
//   panel  widened in registers: 4 operations beside 4 x num_rows vfmadd for a lane's 32 columns
#include <immintrin.h>

#include "common/bfloat16.h"
#include "cpu/panel_gemm_isa.h"
#include "cpu/stream_avx512.h"
#include "cpu/widen_avx512.h"

namespace llada {
namespace {

// sums[r] += rows[r x stride] x weights.
template <int Rows, int Vectors>
LLADA_INLINE void accumulate(const float* rows, std::int64_t stride, const __m512 (&weights)[Vectors],
                             __m512 (&sums)[Rows][Vectors]) {
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
    const __m512 value = _mm512_set1_ps(rows[r * stride]);
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sums[r][v] = _mm512_fmadd_ps(value, weights[v], sums[r][v]);
  }
}

template <int Rows, int Vectors>
LLADA_INLINE void clear(__m512 (&sums)[Rows][Vectors]) {
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sums[r][v] = _mm512_setzero_ps();
  }
}

LLADA_INLINE void store_or_add(float* out, bool first, __m512 sum) {
  _mm512_storeu_ps(out, first ? sum : _mm512_add_ps(_mm512_loadu_ps(out), sum));
}

template <int Rows>
void tile(const PanelGemmArgs& args) {
  alignas(64) float even[kLaneBlock * Rows + 16], odd[kLaneBlock * Rows + 16];
  Lanes<Rows> lanes(args);
  std::int64_t begin = 0;
  do {
    const std::int64_t count = begin + kLaneBlock < args.lanes ? kLaneBlock : args.lanes - begin;
    const std::uint32_t* block = lanes.rows;
    widen_lanes(block, count * Rows, even, odd);
    __m512 sums[Rows][2];
    clear(sums);
    lanes.take(count, [&](__m512i left, __m512i right, const std::uint32_t* rows) LLADA_INLINE_LAMBDA {
      accumulate(even + (rows - block), 1, {widen_even(left), widen_even(right)}, sums);
      accumulate(odd + (rows - block), 1, {widen_odd(left), widen_odd(right)}, sums);
    });
    for (int r = 0; r < Rows; ++r) {
      for (int v = 0; v < 2; ++v) store_or_add(args.out + r * args.out_stride + 16 * v, begin == 0, sums[r][v]);
    }
    begin += count;
  } while (begin < args.lanes);
}

template <int Rows, int Panels>
void wide_tile(const WideGemmArgs& args) {
  constexpr int kVectors = 2 * Panels;
  alignas(64) float even[Rows][kLaneBlock], odd[Rows][kLaneBlock];
  const std::uint32_t* panel = args.panel;
  const char* next = static_cast<const char*>(args.next);
  std::int64_t begin = 0;
  do {
    const std::int64_t count = begin + kLaneBlock < args.lanes ? kLaneBlock : args.lanes - begin;
    for (int r = 0; r < Rows; ++r) widen_lanes(args.rows + r * args.row_bytes + 4 * begin, count, even[r], odd[r]);
    __m512 sums[Rows][kVectors];
    clear(sums);
    for (std::int64_t lane = 0; lane < count; ++lane, panel += kPanelColumns, next += args.next_step) {
      const std::uint32_t* columns[kVectors];
      __m512 weights[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        columns[v] = panel + v / 2 * args.panel_words + v % 2 * 16;
        weights[v] = widen_even(_mm512_loadu_si512(columns[v]));
        prefetch<Fetch::kIntoL1>(reinterpret_cast<const char*>(columns[v]) + kAheadOfCache);
      }
      prefetch_lines<Fetch::kIntoL1>(next, args.next_step);
      accumulate(&even[0][lane], kLaneBlock, weights, sums);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) weights[v] = widen_odd(_mm512_loadu_si512(columns[v]));
      accumulate(&odd[0][lane], kLaneBlock, weights, sums);
    }
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        float* out = args.out + (v / 2 * Rows + r) * kPanelColumns + v % 2 * 16;
        store_or_add(out, args.first && begin == 0, sums[r][v]);
      }
    }
    begin += count;
  } while (begin < args.lanes);
}

}  // namespace

void panel_gemm_bf16_avx512fma(const PanelGemmArgs& args) {
  static constexpr PanelGemm kTiles[kMaxPanelRows + 1] = {nullptr,  tile<1>,  tile<2>, tile<3>, tile<4>,
                                                          tile<5>,  tile<6>,  tile<7>, tile<8>, tile<9>,
                                                          tile<10>, tile<11>, tile<12>};
  kTiles[args.num_rows](args);
}

void wide_gemm_bf16_avx512fma(const WideGemmArgs& args) {
  static constexpr WideGemm kTiles[kMaxWideRows + 1][2] = {{nullptr, nullptr},
                                                           {wide_tile<1, 1>, wide_tile<1, 2>},
                                                           {wide_tile<2, 1>, wide_tile<2, 2>},
                                                           {wide_tile<3, 1>, wide_tile<3, 2>},
                                                           {wide_tile<4, 1>, wide_tile<4, 2>},
                                                           {wide_tile<5, 1>, wide_tile<5, 2>},
                                                           {wide_tile<6, 1>, wide_tile<6, 2>}};
  kTiles[args.num_rows][args.num_panels - 1](args);
}

}  // namespace llada

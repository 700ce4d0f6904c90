// The bf16 tiles of panel_gemm_avx512.cpp by vfmadd: a lane's two elements become floats, the even one by a shift and
// the odd one by a mask, and take a vfmadd each, even first.
//
//   rows   widened into L1, a block of lanes at a time, for each panel anew (6 % of the time of 12 rows), or for two.
//          To widen in registers what is broadcast would take a third of it.
//   panel  widened in registers: 4 operations beside 4 x num_rows vfmadd for a lane's 32 columns
#include <immintrin.h>

#include "common/bfloat16.h"
#include "cpu/panel_gemm_isa.h"
#include "cpu/stream_avx512.h"
#include "cpu/widen_avx512.h"

namespace llada {
namespace {

// sums[r] += rows[r x stride] x weights.
template <int Rows>
LLADA_INLINE void accumulate(const float* rows, std::int64_t stride, const __m512 (&weights)[2],
                             __m512 (&sums)[Rows][2]) {
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
    const __m512 value = _mm512_set1_ps(rows[r * stride]);
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) sums[r][v] = _mm512_fmadd_ps(value, weights[v], sums[r][v]);
  }
}

template <int Rows>
LLADA_INLINE void clear(__m512 (&sums)[Rows][2]) {
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) sums[r][v] = _mm512_setzero_ps();
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

// One panel after the other, which share a block of widened rows: side by side, with 6 rows, each would be widened for
// half as many products.
template <int Rows>
void wide_tile(const WideGemmArgs& args) {
  alignas(64) float even[Rows][kLaneBlock], odd[Rows][kLaneBlock];
  const char* next = static_cast<const char*>(args.next);
  const std::int64_t next_step = (args.next_step + args.num_panels - 1) / args.num_panels;
  for (std::int64_t begin = 0; begin < args.lanes; begin += kLaneBlock) {
    const std::int64_t count = begin + kLaneBlock < args.lanes ? kLaneBlock : args.lanes - begin;
    for (int r = 0; r < Rows; ++r) widen_lanes(args.rows + r * args.row_bytes + 4 * begin, count, even[r], odd[r]);
    for (int p = 0; p < args.num_panels; ++p) {
      const std::uint32_t* panel = args.panel + p * args.panel_words + begin * kPanelColumns;
      __m512 sums[Rows][2];
      clear(sums);
      for (std::int64_t lane = 0; lane < count; ++lane, panel += kPanelColumns, next += next_step) {
        const __m512i left = _mm512_loadu_si512(panel), right = _mm512_loadu_si512(panel + 16);
        prefetch<Fetch::kIntoL1>(reinterpret_cast<const char*>(panel) + kAheadOfCache);
        prefetch<Fetch::kIntoL1>(reinterpret_cast<const char*>(panel + 16) + kAheadOfCache);
        prefetch_lines<Fetch::kIntoL2>(next, next_step);
        accumulate(&even[0][lane], kLaneBlock, {widen_even(left), widen_even(right)}, sums);
        accumulate(&odd[0][lane], kLaneBlock, {widen_odd(left), widen_odd(right)}, sums);
      }
      float* out = args.out + p * Rows * kPanelColumns;
#pragma GCC unroll 12
      for (int r = 0; r < Rows; ++r, out += kPanelColumns) {
        store_or_add(out, args.first && begin == 0, sums[r][0]);
        store_or_add(out + 16, args.first && begin == 0, sums[r][1]);
      }
    }
  }
}

}  // namespace

void panel_gemm_bf16_avx512fma(const PanelGemmArgs& args) {
  static constexpr PanelGemm kTiles[kMaxPanelRows + 1] = {nullptr,  tile<1>,  tile<2>, tile<3>, tile<4>,
                                                          tile<5>,  tile<6>,  tile<7>, tile<8>, tile<9>,
                                                          tile<10>, tile<11>, tile<12>};
  kTiles[args.num_rows](args);
}

void wide_gemm_bf16_avx512fma(const WideGemmArgs& args) {
  static constexpr WideGemm kTiles[kMaxWideRows + 1] = {
      nullptr,      wide_tile<1>, wide_tile<2>, wide_tile<3>,  wide_tile<4>,  wide_tile<5>, wide_tile<6>,
      wide_tile<7>, wide_tile<8>, wide_tile<9>, wide_tile<10>, wide_tile<11>, wide_tile<12>};
  kTiles[args.num_rows](args);
}

}  // namespace llada

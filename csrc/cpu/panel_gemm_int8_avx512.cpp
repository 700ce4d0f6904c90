// rows [lanes][num_rows] of signed bytes x panel [lanes][32] of unsigned ones: the tile of panel_gemm_avx512.cpp with
// vpdpbusd, four products a lane. An int4 panel is expanded in registers on its way in:
//
//   64 bytes of nibbles --and, shift--> 2 x 64 nibbles in bytes --vpmullw by the multiplier, + 128 - 8 * multiplier-->
//   2 x 64 bytes of an int8 panel
//
// The 16-bit product multiplies both of its bytes at once: neither exceeds 15 * 16, so nothing carries over.
#include <immintrin.h>

#include "common/bfloat16.h"
#include "cpu/byte_products_avx512.h"
#include "cpu/panel_gemm_isa.h"
#include "cpu/stream_avx512.h"

namespace llada {
namespace {

template <int Rows>
struct Sums {
  __m512i left[Rows], right[Rows];

  LLADA_INLINE void start(const std::uint32_t* corrections) {
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) left[r] = right[r] = _mm512_set1_epi32(static_cast<int>(corrections[r]));
  }

  LLADA_INLINE void add(__m512i weights_left, __m512i weights_right, const std::uint32_t* rows) {
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
      const __m512i value = _mm512_set1_epi32(static_cast<int>(rows[r]));
      add_products(left[r], weights_left, value);
      add_products(right[r], weights_right, value);
    }
  }

  LLADA_INLINE void finish(const std::uint32_t* row_scales, const std::uint32_t* column_scales, float* out,
                           std::int64_t out_stride) const {
    const __m512 scale_left = _mm512_loadu_ps(column_scales), scale_right = _mm512_loadu_ps(column_scales + 16);
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r, out += out_stride) {
      const __m512 scale = _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(row_scales[r])));
      _mm512_storeu_ps(out, _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(left[r]), scale), scale_left));
      _mm512_storeu_ps(out + 16, _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(right[r]), scale), scale_right));
    }
  }
};

template <int Rows>
void int8_tile(const PanelGemmArgs& args) {
  const std::uint32_t* scales = args.rows + args.lanes * Rows;
  Sums<Rows> sums;
  sums.start(scales + Rows);
  Lanes<Rows, true> lanes(args);
  lanes.take(args.lanes, [&](__m512i left, __m512i right, const std::uint32_t* rows)
                             LLADA_INLINE_LAMBDA { sums.add(left, right, rows); });
  sums.finish(scales, lanes.panel, args.out, args.out_stride);
}

// What expands one group's nibbles of 16 columns.
struct Expansion {
  __m512i multiplier;  // in both 16-bit halves of a column's lane
  __m512i offset;      // 128 - 8 * multiplier in its four bytes

  explicit LLADA_INLINE Expansion(const char* multipliers) {
    const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(multipliers)));
    multiplier = _mm512_or_si512(wide, _mm512_slli_epi32(wide, 16));
    const __m512i bytes = _mm512_or_si512(multiplier, _mm512_slli_epi32(multiplier, 8));
    offset = _mm512_sub_epi8(_mm512_set1_epi8(static_cast<char>(128)), _mm512_slli_epi32(bytes, 3));
  }

  LLADA_INLINE __m512i expand(__m512i nibbles) const {
    const __m512i digits = _mm512_and_si512(nibbles, _mm512_set1_epi8(15));
    return _mm512_add_epi8(_mm512_mullo_epi16(digits, multiplier), offset);
  }
};

// Calls use(lane, left, right) with the int8 lanes of both halves, 16 row lanes a block.
template <class Use>
LLADA_INLINE void expand_block(const std::uint32_t* block, const Use& use) {
  const char* multipliers = reinterpret_cast<const char*>(block);
  const std::uint32_t* nibbles = block + 16;
#pragma GCC unroll 2
  for (int group = 0; group < 2; ++group, multipliers += kPanelColumns) {
    const Expansion left(multipliers), right(multipliers + 16);
    for (int lane = 8 * group; lane < 8 * group + 8; lane += 2, nibbles += kPanelColumns) {
      const __m512i packed_left = load_halves(nibbles), packed_right = load_halves(nibbles + 16);
      use(lane, left.expand(packed_left), right.expand(packed_right));
      use(lane + 1, left.expand(_mm512_srli_epi16(packed_left, 4)), right.expand(_mm512_srli_epi16(packed_right, 4)));
    }
  }
}

LLADA_INLINE void copy_scales(const std::uint32_t* scales, std::uint32_t* target) {
  _mm512_storeu_si512(target, _mm512_loadu_si512(scales));
  _mm512_storeu_si512(target + 16, _mm512_loadu_si512(scales + 16));
}

template <int Rows, bool Keep, Fetch Into>
LLADA_INLINE void int4_tile(const PanelGemmArgs& args) {
  const std::uint32_t *panel = args.panel, *rows = args.rows, *scales = rows + args.lanes * Rows;
  std::uint32_t* expanded = args.expanded;
  // The next panel's lines or those ahead in this one: to fetch both takes 7 % longer with two chunks of eight rows.
  const bool alone = args.next == nullptr;
  const char* next = alone ? reinterpret_cast<const char*>(panel) + args.ahead : static_cast<const char*>(args.next);
  const std::int64_t next_step = alone ? 4 * kInt4BlockWords / kInt4BlockLanes : args.next_step;
  Sums<Rows> sums;
  sums.start(scales + Rows);
  for (std::int64_t lane = 0; lane < args.lanes; lane += kInt4BlockLanes, panel += kInt4BlockWords) {
    prefetch<Into>(next + kInt4BlockLanes * next_step);
    expand_block(panel, [&](int, __m512i left, __m512i right) LLADA_INLINE_LAMBDA {
      prefetch<Into>(next);
      if constexpr (Keep) {
        _mm512_storeu_si512(expanded, left);
        _mm512_storeu_si512(expanded + 16, right);
        expanded += kPanelColumns;
      }
      sums.add(left, right, rows);
      rows += Rows;
      next += next_step;
    });
  }
  if constexpr (Keep) copy_scales(panel, expanded);
  sums.finish(scales, panel, args.out, args.out_stride);
}

template <int Rows, bool Keep>
LLADA_INLINE void int4_tile(const PanelGemmArgs& args) {
  if (args.into_l2) {
    int4_tile<Rows, Keep, Fetch::kIntoL2>(args);
  } else {
    int4_tile<Rows, Keep, Fetch::kIntoL1>(args);
  }
}

template <int Rows>
void int4_tile(const PanelGemmArgs& args) {
  if (args.expanded == nullptr) {
    int4_tile<Rows, false>(args);
  } else {
    int4_tile<Rows, true>(args);
  }
}

}  // namespace

void panel_gemm_int8_avx512(const PanelGemmArgs& args) {
  static constexpr PanelGemm kTiles[kMaxPanelRows + 1] = {
      nullptr,      int8_tile<1>, int8_tile<2>, int8_tile<3>,  int8_tile<4>,  int8_tile<5>, int8_tile<6>,
      int8_tile<7>, int8_tile<8>, int8_tile<9>, int8_tile<10>, int8_tile<11>, int8_tile<12>};
  kTiles[args.num_rows](args);
}

void panel_gemm_int4_avx512(const PanelGemmArgs& args) {
  static constexpr PanelGemm kTiles[kMaxPanelRows + 1] = {
      nullptr,      int4_tile<1>, int4_tile<2>, int4_tile<3>,  int4_tile<4>,  int4_tile<5>, int4_tile<6>,
      int4_tile<7>, int4_tile<8>, int4_tile<9>, int4_tile<10>, int4_tile<11>, int4_tile<12>};
  kTiles[args.num_rows](args);
}

void expand_int4_avx512(const std::uint32_t* panel, std::int64_t lanes, std::uint32_t* expanded) {
  for (std::int64_t lane = 0; lane < lanes; lane += kInt4BlockLanes, panel += kInt4BlockWords) {
    std::uint32_t* out = expanded + lane * kPanelColumns;
    expand_block(panel, [&](int l, __m512i left, __m512i right) LLADA_INLINE_LAMBDA {
      _mm512_storeu_si512(out + l * kPanelColumns, left);
      _mm512_storeu_si512(out + l * kPanelColumns + 16, right);
    });
  }
  copy_scales(panel, expanded + lanes * kPanelColumns);
}

}  // namespace llada

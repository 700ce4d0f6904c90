// rows of signed bytes x panel of unsigned ones with 16 registers: 2 rows x 4 vectors, the whole panel as one stream.
//
// vpmaddubsw would saturate on unsigned weights up to 255, so a weight byte w - 128 is split into magnitude and sign:
// |w| * (a with w's sign) is at most 128 * 127, a pair of them fits 16 bits, and the sum needs no correction.
#include <immintrin.h>

#include "common/bfloat16.h"
#include "cpu/panel_gemm_isa.h"

namespace llada {
namespace {

constexpr int kVectors = kPanelColumns / 8;

template <int Rows>
void tile(const PanelGemmArgs& args, int first_row) {
  const std::uint32_t *panel = args.panel, *rows = args.rows + first_row;
  const auto* row_scales = reinterpret_cast<const float*>(args.rows + args.lanes * args.num_rows) + first_row;
  const __m256i ones = _mm256_set1_epi16(1), sign = _mm256_set1_epi8(static_cast<char>(128));
  __m256i sums[Rows][kVectors];
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm256_setzero_si256();
  }
  for (std::int64_t lane = 0; lane < args.lanes; ++lane, panel += kPanelColumns, rows += args.num_rows) {
    const char* coming = reinterpret_cast<const char*>(panel) + args.ahead;
    _mm_prefetch(coming, _MM_HINT_T0);
    _mm_prefetch(coming + 64, _MM_HINT_T0);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + 8 * v));
      const __m256i weights = _mm256_xor_si256(bytes, sign), magnitude = _mm256_abs_epi8(weights);
#pragma GCC unroll 2
      for (int r = 0; r < Rows; ++r) {
        const __m256i value = _mm256_set1_epi32(static_cast<int>(rows[r]));
        const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(value, weights));
        sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(pairs, ones));
      }
    }
  }
  const auto* column_scales = reinterpret_cast<const float*>(panel);
  for (int r = 0; r < Rows; ++r) {
    float* out = args.out + (first_row + r) * args.out_stride;
    for (int v = 0; v < kVectors; ++v) {
      const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][v]), _mm256_set1_ps(row_scales[r]));
      _mm256_storeu_ps(out + 8 * v, _mm256_mul_ps(scaled, _mm256_loadu_ps(column_scales + 8 * v)));
    }
  }
}

}  // namespace

void panel_gemm_int8_avx2(const PanelGemmArgs& args) {
  int row = 0;
  for (; row + 2 <= args.num_rows; row += 2) tile<2>(args, row);
  if (row < args.num_rows) tile<1>(args, row);
}

}  // namespace llada

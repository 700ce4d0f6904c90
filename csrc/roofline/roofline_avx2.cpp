// 6 x 2 vectors of 8 sums (bf16: 5 x 2, int8: 4 x 2; more make gcc 12 spill). A bf16 lane becomes two floats by a shift
// and a mask; int8 goes through pair sums, |b| * (a with b's sign), which 16 bits hold.
#include <immintrin.h>

#include "roofline/probe_kernels_impl.h"

namespace llada {
namespace {

struct Avx2 {
  using Lanes = __m256i;
  static LLADA_INLINE Lanes broadcast(std::uint32_t lane) { return _mm256_set1_epi32(static_cast<int>(lane)); }
};

struct Fp32 : Avx2 {
  using Sum = __m256;
  static constexpr int kValues = 1, kSteps = 1;
  template <int Step>
  static LLADA_INLINE Sum operand(Lanes lanes) {
    return _mm256_castsi256_ps(lanes);
  }
  static LLADA_INLINE Sum multiply_add(Sum sum, Sum a, Sum b) { return _mm256_fmadd_ps(a, b, sum); }
};

struct Bf16 : Avx2 {
  using Sum = __m256;
  static constexpr int kValues = 2, kSteps = 2;
  template <int Step>
  static LLADA_INLINE Sum operand(Lanes lanes) {
    if constexpr (Step == 0) return _mm256_castsi256_ps(_mm256_slli_epi32(lanes, 16));
    return _mm256_castsi256_ps(_mm256_and_si256(lanes, _mm256_set1_epi32(-65536)));
  }
  static LLADA_INLINE Sum multiply_add(Sum sum, Sum a, Sum b) { return _mm256_fmadd_ps(a, b, sum); }
};

struct Int8 : Avx2 {
  using Sum = __m256i;
  static constexpr int kValues = 4, kSteps = 1;
  template <int Step>
  static LLADA_INLINE Lanes operand(Lanes lanes) {
    return lanes;
  }
  static LLADA_INLINE Sum multiply_add(Sum sum, Lanes a, Lanes b) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(b), _mm256_sign_epi8(a, b));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

}  // namespace

const ProbeKernels& probe_kernels_avx2() {
  static constexpr ProbeKernels kKernels{read<__m256i>, read<__m256i>, probe_products<Fp32, 6, 2>(),
                                         probe_products<Bf16, 5, 2>(), probe_products<Int8, 4, 2>()};
  return kKernels;
}

}  // namespace llada

// 12 x 2 vectors of 16 sums: one vfmadd, vdpbf16ps or vpdpbusd for each vector of lanes.
//
// Streams are read by halves of a cache line: whole lines outrun Zen 4's prefetchers and lose a third of DRAM's rate
// (22 against 34 GB/s for one thread, 29 with a software prefetch).
#include <immintrin.h>

#include "cpu/byte_products_avx512.h"
#include "roofline/probe_kernels_impl.h"

namespace llada {
namespace {

struct Avx512 {
  using Lanes = __m512i;
  static constexpr int kSteps = 1;
  static LLADA_INLINE Lanes broadcast(std::uint32_t lane) { return _mm512_set1_epi32(static_cast<int>(lane)); }
  template <int Step>
  static LLADA_INLINE Lanes operand(Lanes lanes) {
    return lanes;
  }
};

struct Fp32 : Avx512 {
  using Sum = __m512;
  static constexpr int kValues = 1;
  static LLADA_INLINE Sum multiply_add(Sum sum, Lanes a, Lanes b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
  }
};

struct Bf16 : Avx512 {
  using Sum = __m512;
  static constexpr int kValues = 2;
  static LLADA_INLINE Sum multiply_add(Sum sum, Lanes a, Lanes b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
};

struct Int8 : Avx512 {
  using Sum = __m512i;
  static constexpr int kValues = 4;
  static LLADA_INLINE Sum multiply_add(Sum sum, Lanes a, Lanes b) {
    add_products(sum, a, b);
    return sum;
  }
};

}  // namespace

const ProbeKernels& probe_kernels_avx512() {
  static constexpr ProbeKernels kKernels{read<__m512i>, read<__m256i>, probe_products<Fp32, 12, 2>(),
                                         probe_products<Bf16, 12, 2>(), probe_products<Int8, 12, 2>()};
  return kKernels;
}

// A product of bf16 is one of fp32 there.
const ProbeKernels& probe_kernels_avx512fma() {
  static constexpr ProbeKernels kKernels{read<__m512i>, read<__m256i>, probe_products<Fp32, 12, 2>(),
                                         probe_products<Fp32, 12, 2>(), probe_products<Int8, 12, 2>()};
  return kKernels;
}

}  // namespace llada

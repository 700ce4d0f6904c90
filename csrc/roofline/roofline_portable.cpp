// 4 x 2 vectors of 4 sums in the compiler's own vector types: products and sums apart, bf16 lanes widened by a shift
// and a mask, int8 by 16-bit products (exact) of the even and of the odd bytes.
#include "roofline/probe_kernels_impl.h"

namespace llada {
namespace {

typedef std::uint32_t Lanes16 __attribute__((vector_size(16)));
typedef std::int32_t Int16 __attribute__((vector_size(16)));
typedef std::int16_t Short16 __attribute__((vector_size(16)));
typedef float Float16 __attribute__((vector_size(16)));

struct Portable {
  using Lanes = Lanes16;
  static LLADA_INLINE Lanes broadcast(std::uint32_t lane) { return Lanes{lane, lane, lane, lane}; }
};

struct Fp32 : Portable {
  using Sum = Float16;
  static constexpr int kValues = 1, kSteps = 1;
  template <int Step>
  static LLADA_INLINE Sum operand(Lanes lanes) {
    return reinterpret_cast<Sum>(lanes);
  }
  static LLADA_INLINE Sum multiply_add(Sum sum, Sum a, Sum b) { return a * b + sum; }
};

struct Bf16 : Portable {
  using Sum = Float16;
  static constexpr int kValues = 2, kSteps = 2;
  template <int Step>
  static LLADA_INLINE Sum operand(Lanes lanes) {
    return reinterpret_cast<Sum>(Step == 0 ? lanes << 16 : lanes & 0xffff0000u);
  }
  static LLADA_INLINE Sum multiply_add(Sum sum, Sum a, Sum b) { return a * b + sum; }
};

struct Int8 : Portable {
  using Sum = Lanes16;  // unsigned: the probe's sums wrap around
  static constexpr int kValues = 4, kSteps = 2;
  template <int Step>
  static LLADA_INLINE Short16 operand(Lanes lanes) {
    const auto pairs = reinterpret_cast<Short16>(lanes);
    return Step == 0 ? (pairs << 8) >> 8 : pairs >> 8;
  }
  static LLADA_INLINE Sum multiply_add(Sum sum, Short16 a, Short16 b) {
    const auto pairs = reinterpret_cast<Lanes>(a * b);
    return sum + reinterpret_cast<Lanes>(reinterpret_cast<Int16>(pairs << 16) >> 16) +
           reinterpret_cast<Lanes>(reinterpret_cast<Int16>(pairs) >> 16);
  }
};

}  // namespace

const ProbeKernels& probe_kernels_portable() {
  static constexpr ProbeKernels kKernels{read<Lanes16>, read<Lanes16>, probe_products<Fp32, 4, 2>(),
                                         probe_products<Bf16, 4, 2>(), probe_products<Int8, 4, 2>()};
  return kKernels;
}

}  // namespace llada

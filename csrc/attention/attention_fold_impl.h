// Folding the state of a later block into that of the ones before: maxima, sums and outputs. Compiled once per
// instruction set: include exactly one cpu/vector_*.h before it.
#pragma once

#include <cstdint>

namespace llada {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

// No key seen: any finite reference makes every weight exactly zero.
LLADA_INLINE float reference_of(float maximum) { return maximum == kMinusInfinity ? 0.0f : maximum; }

// The factors by which an earlier state and a later block count in their fold.
struct Fold {
  alignas(64) float earlier[16];
  alignas(64) float later[16];
};

// Folds the maxima and sums of 16 rows; the outputs follow by the factors.
LLADA_INLINE void fold_rows(float (&maximum)[16], float (&sum)[16], const float (&later_maximum)[16],
                            const float (&later_sum)[16], Fold& factors) {
  for (int m = 0; m < 16; m += Vector::kWidth) {
    const auto old = Vector::load(maximum + m), now = Vector::load(later_maximum + m);
    const auto highest = Vector::max(old, now);
    alignas(64) float reference[Vector::kWidth];
    Vector::store(maximum + m, highest);
    for (int i = 0; i < Vector::kWidth; ++i) reference[i] = reference_of(maximum[m + i]);
    const auto earlier = Vector::exp2(Vector::subtract(old, Vector::load(reference)));
    const auto later = Vector::exp2(Vector::subtract(now, Vector::load(reference)));
    Vector::store(factors.earlier + m, earlier);
    Vector::store(factors.later + m, later);
    const auto added = Vector::multiply(Vector::load(later_sum + m), later);
    Vector::store(sum + m, Vector::multiply_add(Vector::load(sum + m), earlier, added));
  }
}

LLADA_INLINE Vector::Float fold_output(Vector::Float earlier, Vector::Float later, Vector::Float earlier_factor,
                                       Vector::Float later_factor) {
  return Vector::multiply_add(earlier, earlier_factor, Vector::multiply(later, later_factor));
}

template <int Rows>
LLADA_INLINE void fold_sums(const float* state, std::int64_t stride, int num_rows, const Fold& factors,
                            Vector::Float (&sum)[Rows][2]) {
#pragma GCC unroll 12
  for (int m = 0; m < Rows; ++m, state += stride) {
    if (m >= num_rows) break;
    const auto earlier = Vector::set(factors.earlier[m]), later = Vector::set(factors.later[m]);
    sum[m][0] = fold_output(Vector::load(state), sum[m][0], earlier, later);
    sum[m][1] = fold_output(Vector::load(state + Vector::kWidth), sum[m][1], earlier, later);
  }
}

// Of one row, whose outputs take `columns` floats.
inline void fold(float* state, const float* block, int columns) {
  alignas(64) float maximum[16] = {}, sum[16] = {}, later_maximum[16] = {}, later_sum[16] = {};
  maximum[0] = state[columns], sum[0] = state[columns + 1];
  later_maximum[0] = block[columns], later_sum[0] = block[columns + 1];
  Fold factors;
  fold_rows(maximum, sum, later_maximum, later_sum, factors);
  state[columns] = maximum[0], state[columns + 1] = sum[0];
  for (int c = 0; c < columns; c += Vector::kWidth) {
    Vector::store(state + c, fold_output(Vector::load(state + c), Vector::load(block + c),
                                         Vector::set(factors.earlier[0]), Vector::set(factors.later[0])));
  }
}

}  // namespace
}  // namespace llada

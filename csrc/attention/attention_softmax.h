// The online softmax of a row, and the row's way out, for kernels that hold scores and outputs as mma's d: lanes 4 g to
// 4 g + 3 have row g between them, element i of a thread is of column i / 2 * 8 + lane % 4 * 2 + i % 2.
#pragma once

#include "attention/attention_rows.h"
#include "cuda/pack.h"
#include "cuda/reduce.h"

namespace llada::cuda {

// score(i), of kCount columns, becomes a weight relative to the row's highest scaled score so far, `reference` (minus
// infinity: no key seen). `sum` is of this thread's weights. Returns the factor of all that was summed before.
template <int kCount, class Score>
__device__ __forceinline__ float weigh_row(Score score, float scale_log2, float& reference, float& sum) {
  float highest = -INFINITY;
#pragma unroll
  for (int i = 0; i < kCount; ++i) highest = fmaxf(highest, score(i));
  highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, 1));
  highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, 2));
  const float before = reference;
  reference = fmaxf(before, highest * scale_log2);
  const float subtracted = reference == -INFINITY ? 0.0f : reference;
  const float factor = before == -INFINITY ? 0.0f : exp2f(before - subtracted);
  float added = 0.0f;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    score(i) = exp2f(fmaf(score(i), scale_log2, -subtracted));
    added += score(i);
  }
  sum = sum * factor + added;
  return factor;
}

// output(i), of kCount columns, divided by the sum of the row's weights; zeros where that is zero.
template <class Element, int kCount, class Output>
__device__ __forceinline__ void write_row(const AttentionParams& params, Element* out, float sum, Output output) {
  const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    const int column = i / 2 * 8 + threadIdx.x % 4 * 2;
    const Vector<Element, 2> pair{from_float<Element>(output(i) * inverse),
                                  from_float<Element>(output(i + 1) * inverse)};
    store_pack<2>(out + column, pair, params.depth - column, params.paired);
  }
}

}  // namespace llada::cuda

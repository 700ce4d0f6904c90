// Rows grouped by expert times that expert's weight, rounded once to the input's dtype: the body of grouped_gemm,
// grouped_swiglu and, with one group, linear.
#pragma once

#include "common/array_view.h"
#include "cpu/panel_weights.h"

namespace llada {

struct GroupedProduct {
  PanelWeights weights;         // paired: SwiGLU of the two halves in the epilogue
  DType dtype;                  // of x and y
  const void* x;                // rows of weights.k
  std::int64_t row_stride;      // of x, in elements
  const std::int32_t* offsets;  // [groups + 1], rising from 0: rows of group g are offsets[g] .. offsets[g + 1]
  std::int64_t groups;
  const float* bias;  // [columns], or null
  void* y;            // [offsets[groups], columns], contiguous
};

void run_grouped_product(const GroupedProduct& product);

}  // namespace llada

// The row loops of the norms and of the rotary embedding: written once, compiled for each instruction set.
#pragma once

#include <cstdint>

#include "common/array_view.h"
#include "common/isa.h"

namespace llada {

// One row of `size` elements: out = round(row / rms(row)) * weight. With a residual, row + residual is first rounded
// into `total` and takes the row's place.
struct NormRowArgs {
  const void* row;
  const void* residual;  // or null
  const void* weight;
  void* total;
  void* out;
  std::int64_t size;
  float eps;
};

// One head of `depth` elements: normalised (unless weight is null), clamped to +- clip (unless it is infinite), then
// its first 2 * half components rotated by pairs (i, i + half).
struct RotateHeadArgs {
  const void* head;
  const void* weight;  // or null
  void* buffer;        // [depth], between the two steps
  void* out;
  const float* cosines;  // [half], rounded to the element type
  const float* sines;    // [half]
  std::int64_t depth, half;
  float eps;
  float clip;
};

struct RowKernels {
  void (*norm_row)(const NormRowArgs& args);
  void (*rotate_head)(const RotateHeadArgs& args);
};

// For fp32 or bf16 rows.
const RowKernels& select_row_kernels(DType dtype, Isa isa);

const RowKernels& row_kernels_portable(DType dtype);
const RowKernels& row_kernels_avx2(DType dtype);
const RowKernels& row_kernels_avx512(DType dtype);

}  // namespace llada

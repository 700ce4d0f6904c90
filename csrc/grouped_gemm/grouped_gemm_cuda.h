// Products of rows grouped by expert on a GPU: checked entries, and the launchers that they call.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace llada {

struct GroupedGemmArgs;

namespace cuda {

struct Stream;

// Plain weights alone. On a GPU the values of offsets are not read by the host: those that do not rise from 0 to at
// most A give wrong rows, but nothing outside of y is written.
void grouped_gemm(const GroupedGemmArgs& args, const Stream& stream);
void grouped_swiglu(const GroupedGemmArgs& args, const Stream& stream);

struct ProductParams {
  DType dtype;
  const void* x;  // [rows, depth], rows x_stride elements apart
  std::int64_t x_stride;
  const void* weight;  // [groups, columns or 2 columns, depth]
  std::int64_t group_stride, weight_stride;
  const std::int32_t* offsets;  // [groups + 1]; null: one group has all rows
  void* y;                      // [rows, columns], aligned to 16 bytes
  std::int64_t rows, depth, columns, groups;
  void* stream;
  // Or null. With either, rows of no group are not written.
  const std::int32_t* x_order = nullptr;  // row r of the product is row x_order[r] / slots of x
  const std::int32_t* y_order = nullptr;  // and row y_order[r] of y
  std::int64_t slots = 1;
  const float* weight_scale = nullptr;  // [groups, columns or 2 columns], of a weight in bytes
};
int grouped_gemm_sm80(const ProductParams& params);
int grouped_swiglu_sm80(const ProductParams& params);
int grouped_gemm_sm90(const ProductParams& params);
int grouped_swiglu_sm90(const ProductParams& params);

}  // namespace cuda
}  // namespace llada

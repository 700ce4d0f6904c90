// The expert layer on a GPU: the checked entry, and the launchers that it calls beside those of expert_order and
// grouped_swiglu.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace llada {

struct ArrayView;
struct MoeMlpArgs;

namespace cuda {

struct ExpertOrderParams;
struct ProductParams;
struct Stream;

// What the passes need besides; all contiguous, on the device of x.
struct MoeMlpSizes {
  std::int64_t tokens;  // per pass
  std::int64_t rows;    // tokens * k
};
MoeMlpSizes moe_mlp_sizes(const MoeMlpArgs& args);

struct MoeMlpWorkspace {
  const ArrayView& order;         // [rows] int32
  const ArrayView& offsets;       // [E + 1] int32
  const ArrayView& intermediate;  // [rows, I] of the dtype of x
  const ArrayView& outputs;       // [rows, H] float32
};

// Plain weights alone. On a GPU the values of experts are not read by the host: one out of range counts as "not mine".
void moe_mlp(const MoeMlpArgs& args, const MoeMlpWorkspace& workspace, const Stream& stream);

// The same with gate_up [E, 2I, ceil16(H)] and down [E, H, ceil16(I)] in bytes, in the order of product_int8_sm80.h,
// each row with a scale; args.packed is true.
struct MoeMlpScales {
  const ArrayView& gate_up;  // [E, 2I] float32
  const ArrayView& down;     // [E, H] float32
};
void moe_mlp_int8(const MoeMlpArgs& args, const MoeMlpScales& scales, const MoeMlpWorkspace& workspace,
                  const Stream& stream);

// expert_order into offsets and x_order, then grouped_swiglu; in one launch where rows are few.
int ordered_swiglu_sm90(const ProductParams& params, const ExpertOrderParams& sort);

// grouped_gemm whose y is float32.
int down_product_sm80(const ProductParams& params);
int down_product_sm90(const ProductParams& params);
int swiglu_int8_sm80(const ProductParams& params);
int down_product_int8_sm80(const ProductParams& params);
int ordered_swiglu_int8_sm90(const ProductParams& params, const ExpertOrderParams& sort);
int down_product_int8_sm90(const ProductParams& params);

struct CombineParams {
  DType dtype;           // of y
  const float* outputs;  // [tokens * slots, hidden]; of an expert out of range: not read
  const float* weights;  // [tokens, slots]
  const void* experts;   // [tokens, slots] int32 or int64
  bool wide_experts;
  std::int64_t num_experts;
  void* y;  // [tokens, hidden]
  std::int64_t tokens, slots, hidden;
  void* stream;
};
int combine_sm80(const CombineParams& params);

}  // namespace cuda
}  // namespace llada

// The norms and the rotary embedding on a GPU: checked entries, and the launchers that they call.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace llada {

struct RmsNormArgs;
struct QkNormRopeArgs;

namespace cuda {

struct Stream;

void rms_norm(const RmsNormArgs& args, const Stream& stream);
void qk_norm_rope(const QkNormRopeArgs& args, const Stream& stream);

struct RmsNormParams {
  DType dtype;
  const void* x;         // [rows, hidden]
  const void* residual;  // or null; with it total is written
  const void* weight;    // [hidden]
  void* out;
  void* total;
  std::int64_t rows, hidden;
  float eps;
  void* stream;
};
int rms_norm_sm80(const RmsNormParams& params);

// q or k.
struct HeadsParams {
  const void* heads;   // [batch, length, num_heads, depth], the last dimension contiguous
  const void* weight;  // [depth], or null
  void* out;           // like heads, contiguous
  std::int64_t batch_stride, token_stride, head_stride;  // in elements
  std::int64_t num_heads;
};

struct QkNormRopeParams {
  DType dtype;
  HeadsParams q, k;
  const void* positions;  // [batch, length] int32 or int64
  bool wide_positions;
  std::int64_t position_batch_stride, position_token_stride;
  const float* frequencies;  // [half]
  std::int64_t batch, length, depth, half;
  float eps, clip;  // clip is infinite if there is none
  void* stream;
};
int qk_norm_rope_sm80(const QkNormRopeParams& params);

}  // namespace cuda
}  // namespace llada

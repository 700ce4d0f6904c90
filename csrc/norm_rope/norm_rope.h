// RMS normalisation, and the per-head normalisation, clip and rotary embedding of queries and keys.
#pragma once

#include <cstdint>
#include <optional>

#include "common/check.h"

namespace llada {

struct RmsNormArgs {
  ArrayView x;         // [..., H] fp32 or bf16, contiguous
  ArrayView residual;  // optional, like x: x + residual (rounded) is normalised and written to total
  ArrayView weight;    // [H], the dtype of x
  double eps = 0.0;
  ArrayView out;    // like x
  ArrayView total;  // like x, with residual

  const char* op() const { return residual.defined() ? "add_rms_norm" : "rms_norm"; }
};
void check_rms_norm(const RmsNormArgs& args, const Backend& backend);
void rms_norm(const RmsNormArgs& args);

struct QkNormRopeArgs {
  ArrayView q;         // [B, S, Hq, D] fp32 or bf16, last dimension contiguous
  ArrayView k;         // [B, S, Hk, D]
  ArrayView q_weight;  // optional [D]: without it q is not normalised
  ArrayView k_weight;
  ArrayView positions;    // [B, S] int32 or int64
  ArrayView frequencies;  // [rotary_dim / 2] fp32: angle i is position * frequencies[i], pairs (i, i + rotary_dim / 2)
  double eps = 0.0;
  std::optional<double> clip;
  ArrayView q_out;  // contiguous
  ArrayView k_out;
};
void check_qk_norm_rope(const QkNormRopeArgs& args, const Backend& backend);

// Rounds to the dtype where the published eager code does: after the norm, after its weight, of cos and sin, of both
// products and of their sum.
void qk_norm_rope(const QkNormRopeArgs& args);

}  // namespace llada

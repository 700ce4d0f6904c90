// y [.., N] = x [.., K] weight^T + bias. Every dense projection of the model: library GEMMs choose a kernel by size, so
// a row's bits would depend on its batch; here they do not.
#pragma once

#include "common/check.h"
#include "common/rows.h"

namespace llada {

struct LinearArgs {
  ArrayView x;       // [.., K], fp32 or bf16 (on a GPU also fp16), rows evenly spaced
  ArrayView weight;  // [N, K], or packed (cpu/panel_weights.h)
  bool packed;
  ArrayView bias;  // [N], or undefined
  ArrayView y;     // [.., N], contiguous
};

// All but packed weights; the rows of x.
Rows check_linear(const LinearArgs& args, const Backend& backend);
void linear(const LinearArgs& args);

// Packs weight [N, K] into `packed`.
void pack_linear(const ArrayView& weight, const ArrayView& packed);

}  // namespace llada

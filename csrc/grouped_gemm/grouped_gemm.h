// Rows sorted by expert times that expert's own weight.
//
//   grouped_gemm     x [A, K], weight [E, N, K], offsets [E + 1]         -> y [A, N]
//   grouped_swiglu   x [A, H], gate_up_proj [E, 2I, H], offsets [E + 1]  -> y [A, I] = silu(gate) * up
//
// Rows from offsets[E] on belong to no expert: their output is zero.
#pragma once

#include "common/check.h"

namespace llada {

struct GroupedGemmArgs {
  ArrayView x;       // fp32 or bf16 (on a GPU also fp16), rows may be strided
  ArrayView weight;  // last dimension contiguous, or packed (cpu/panel_weights.h), gate and up sharing panels
  bool packed;
  ArrayView offsets;  // int32
  ArrayView y;        // contiguous
};

// All but packed weights and the values of offsets.
void check_grouped_gemm(const GroupedGemmArgs& args, const Backend& backend);
void check_grouped_swiglu(const GroupedGemmArgs& args, const Backend& backend);

void grouped_gemm(const GroupedGemmArgs& args);
void grouped_swiglu(const GroupedGemmArgs& args);

}  // namespace llada

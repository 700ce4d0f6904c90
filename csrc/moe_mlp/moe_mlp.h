// The whole expert layer, y [T, H] = sum over a token's k slots of weight * down(silu(gate(x)) * up(x)), without a
// permuted copy of x or of the intermediate in row order.
//
//   experts [T,k] --counting sort--> rows of each expert, cut into chunks of <= 12
//   x ---------------gather---------> packed rows [chunk][lanes(H)][rows]            (quantised once a token before)
//   rows x gate/up panels --SwiGLU, round--> packed rows [chunk][lanes(I)][rows]     (written where down reads them)
//   rows x down panels --fp32--> [T*k][H] --weighted sum in the experts' order, one rounding--> y
//   or, of many tokens: rows x some down panels of every expert --weighted, added--> [T][columns] --rounding--> y
#pragma once

#include "common/check.h"

namespace llada {

struct MoeMlpArgs {
  ArrayView x;        // [T, H], fp32 or bf16 (on a GPU also fp16), rows may be strided
  ArrayView weights;  // [T, k] fp32, contiguous
  ArrayView experts;  // [T, k] int32 or int64 in 0 .. E, contiguous; E: not ours, adds nothing
  ArrayView gate_up;  // [E, 2I, H], or packed [E, panels, lanes, 32, values per lane]
  ArrayView down;     // [E, H, I], or packed
  bool packed;
  std::int64_t intermediate;  // I
  ArrayView y;                // [T, H], contiguous
};

// All but packed weights and the values of experts.
void check_moe_mlp(const MoeMlpArgs& args, const Backend& backend);
void moe_mlp(const MoeMlpArgs& args);

// Packs one expert: gate [I, H] and up [I, H] into gate_up, down [H, I] into down_packed.
struct PackExpertArgs {
  ArrayView gate, up, down;
  ArrayView gate_up_packed, down_packed;
};

void pack_expert(const PackExpertArgs& args);

}  // namespace llada

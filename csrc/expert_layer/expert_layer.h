// The expert half of a layer in one call, as attention_layer.h is the other half.
#pragma once

#include <cstdint>

#include "common/array_view.h"

namespace llada {

struct ExpertLayerArgs {
  ArrayView update;       // [.., H] fp32 or bf16, contiguous: what attention adds to the residual stream
  ArrayView residual;     // [.., H]
  ArrayView norm_weight;  // [H]
  double eps = 0.0;
  ArrayView gate_weight;  // [E, H], the router's
  ArrayView expert_bias;  // optional [E], added to the scores
  std::int64_t k = 1;
  bool renormalize = false;
  double scale = 1.0;
  ArrayView gate_up;              // packed
  ArrayView down;                 // packed
  std::int64_t intermediate = 0;  // I
  ArrayView out;                  // [.., H]: what the experts add to the stream
  ArrayView total;                // [.., H]: update + residual
};

// Routing weights are rounded to the dtype of the stream, as published. Throws TypeError or ValueError.
void expert_layer(const ExpertLayerArgs& args);

}  // namespace llada

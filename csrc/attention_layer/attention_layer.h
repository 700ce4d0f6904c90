// The attention half of a layer in one call, for few tokens: there, what a caller does between the ops costs as much
// as the small ones of them. Every step is the entry of its op, so the bits are those of the ops called one by one.
#pragma once

#include <cstdint>

#include "common/array_view.h"

namespace llada {

struct AttentionLayerArgs {
  ArrayView update;       // optional [B, S, H]: what the layer before adds to the residual stream
  ArrayView residual;     // [B, S, H] fp32 or bf16, contiguous
  ArrayView norm_weight;  // [H]
  double eps = 0.0;       // of this norm and of the heads'
  ArrayView qkv_weight;   // packed [(Hq + 2 Hkv) D, H]: the rows of q, of k, of v
  ArrayView qkv_bias;     // optional
  ArrayView out_weight;   // packed [H, Hq D]
  ArrayView out_bias;     // optional
  std::int64_t heads = 0, key_heads = 0, head_size = 0;
  ArrayView q_weight, k_weight;  // optional [D]
  ArrayView positions;           // [B, S]
  ArrayView frequencies;         // [rotary_dim / 2] fp32
  ArrayView cache;               // optional [2, B, L, Hkv, D]: keys and values
  ArrayView key_range;           // optional [B, 2]
  ArrayView out;                 // [B, S, H]: what this layer adds to the stream
  ArrayView total;               // with update: update + residual
};

// With a cache, the keys and values of these tokens are stored at their positions (those from L on nowhere), then all L
// are attended to. Throws TypeError or ValueError.
void attention_layer(const AttentionLayerArgs& args);

}  // namespace llada

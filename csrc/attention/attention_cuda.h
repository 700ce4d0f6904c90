// Attention on a GPU: the checked entry, and the launchers that it calls.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace llada {

struct ArrayView;
struct AttentionArgs;

namespace cuda {

struct Stream;

// The floats of workspace that a call needs, contiguous, on the device of q; 0 where its keys are not split.
std::int64_t attention_workspace(const AttentionArgs& args);

// On a GPU the values of key_range and cu_seqlens are not read by the host: those out of range count as the nearest
// that are in it, cu_seqlens that do not rise leave rows unwritten.
void attention(const AttentionArgs& args, const ArrayView& workspace, const Stream& stream);

// A split's keys start at a multiple of kSplitKeys of the sequence's.
inline constexpr int kMaxKeySplits = 16, kSplitKeys = 64;

// int32 or int64 on the device, `stride` elements apart.
struct IndexArray {
  const void* data = nullptr;
  bool wide = false;
  std::int64_t stride = 0, inner_stride = 0;
};

// Strides in elements; the head size lies together.
struct HeadsArray {
  const void* data;
  std::int64_t batch_stride, position_stride, head_stride;
};

struct AttentionParams {
  DType dtype;
  HeadsArray q, k, v, out;
  int batch, queries, keys, heads, key_heads, depth;
  const std::uint8_t* mask;  // or null
  std::int64_t mask_strides[4];
  IndexArray key_range;   // [batch, 2], or null data
  IndexArray cu_seqlens;  // [sequences + 1], or null data
  int sequences;          // packed in a row of the batch, at least 1
  std::int64_t block_size;
  float scale_log2;  // |scale| * log2(e), above zero
  bool negative;     // the scale is
  bool aligned;      // rows of q, k and v to 16 bytes
  bool paired;       // rows of out to two elements
  int splits, least_split_units;
  float* outputs;  // with splits: [batch * heads * queries, splits, depth], then [.., splits, 2] of maximum and sum
  void* stream;
};
int attention_sm80(const AttentionParams& params);  // bf16 and fp16
int attention_sm90(const AttentionParams& params);  // the same for whole keys, heads of at most 128 and TMA's layout
int attention_fp32_sm80(const AttentionParams& params);  // does not split the keys

}  // namespace cuda
}  // namespace llada

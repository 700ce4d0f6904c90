// Sorting by expert, gathering and summing rows on a GPU: checked entries, and the launchers that they call.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace llada {

struct ArrayView;
struct ExpertOrderArgs;
struct PermuteArgs;
struct UnpermuteArgs;

namespace cuda {

struct Stream;

// On a GPU values are not read by the host. Out of range they do no harm: an expert counts as "not mine", an order
// gives a row of zeros, and a row whose order is out of range is not summed.
void expert_order(const ExpertOrderArgs& args, const Stream& stream);
void permute(const PermuteArgs& args, const Stream& stream);
// workspace: int32 [T * k].
void unpermute(const UnpermuteArgs& args, const ArrayView& workspace, const Stream& stream);

inline constexpr std::int64_t kSortChunk = 4096;     // assignments that one block sorts, up to kMaxSortBlocks
inline constexpr std::int64_t kMaxSortBlocks = 128;  // blocks, all at once; beyond, each takes more
inline constexpr std::int64_t kSortChunkMultiple = 256;
inline constexpr std::int64_t kMaxSortedExperts = 2048;  // a histogram per warp lies in shared memory

struct ExpertOrderParams {
  const void* experts;  // [assignments] int32 or int64
  bool wide_experts;
  std::int64_t assignments;
  int num_experts;
  std::int32_t* order;         // [assignments]
  std::int32_t* offsets;       // [num_experts + 1]
  std::int64_t blocks, chunk;  // chunk assignments per block, a multiple of kSortChunkMultiple
  void* stream;
};
int expert_order_sm80(const ExpertOrderParams& params);

// Checks the arguments.
ExpertOrderParams expert_order_params(const ExpertOrderArgs& args, const Stream& stream);

struct PermuteParams {
  int element_bytes;  // 2 or 4
  const void* x;      // [tokens, hidden], rows x_stride elements apart
  std::int64_t x_stride;
  const std::int32_t* order;  // [rows]
  void* out;                  // [rows, hidden]
  std::int64_t tokens, k, rows, hidden;
  void* stream;
};
int permute_sm80(const PermuteParams& params);

struct UnpermuteParams {
  DType dtype;
  const void* y;  // [rows, hidden], rows y_stride elements apart
  std::int64_t y_stride;
  const std::int32_t* order;  // [rows]
  DType weights_dtype;
  const void* weights;   // [tokens, k]
  std::int32_t* row_of;  // the workspace
  void* out;             // [tokens, hidden]
  std::int64_t tokens, k, rows, hidden;
  void* stream;
};
int unpermute_sm80(const UnpermuteParams& params);

}  // namespace cuda
}  // namespace llada

// Flash attention (2205.14135) by mma.sync, bf16 or fp16, fp32 softmax and sums.
//
//   block    kRows rows of a sequence and key head (attention_rows.h) against its keys, or one split of them
//   warp     kFragments x 16 rows: their queries from shared memory, their scores, weights and output in registers
//   tile     kKeys keys, then values, by cp.async into two buffers each: the next keys while this tile's scores are
//            formed, its values while the weights are; the 16-byte chunk c of row r lies at c ^ r % 8, so that the
//            eight rows of an ldmatrix lie in different banks
//   masks    a tile that no row sees is left out, one that all rows see whole does no mask arithmetic. A mask tensor is
//            read a tile ahead, by all threads, into bits
//   splits   few queries have blocks for every SM only if the keys are split: each leaves its output, maximum and sum
//            of weights, and combine_kernel adds them in order
//
// A row's sums run over its keys in an order that its own sequence and the number of queries decide: the tiles start at
// the sequence's first key, masked keys weigh exactly zero, the shape of the block changes nothing. Keys are split only
// where they outnumber the queries, which a sequence that is packed or padded never shows.
#include "attention/attention_softmax.h"
#include "attention/attention_tiles.h"
#include "cuda/dispatch.h"
#include "cuda/launch.h"
#include "cuda/pack.h"
#include "cuda/ptx_sm80.h"
#include "cuda/reduce.h"

namespace llada::cuda {
namespace {

constexpr std::int64_t kMaxBlocks = 0x7fffffff;

template <class Shape>
__device__ __forceinline__ int chunk_offset(int row, int chunk) {
  return row * Shape::kRowBytes + (chunk ^ (row % 8)) * kAttentionChunk;
}

// row_of(r): where row r of the tile starts, or null for one of zeros.
template <class Element, class Shape, int kTileRows, class RowOf>
__device__ __forceinline__ void copy_rows(char* tile, const AttentionParams& params, const void* base, RowOf row_of) {
  constexpr int kElements = kElementsPer16Bytes<Element>, kStep = kAttentionThreads / Shape::kChunks;
  static_assert(kTileRows % kStep == 0);
  const int chunk = threadIdx.x % Shape::kChunks, valid = clamp(params.depth - chunk * kElements, 0, kElements);
#pragma unroll
  for (int row = threadIdx.x / Shape::kChunks; row < kTileRows; row += kStep) {
    char* to = tile + chunk_offset<Shape>(row, chunk);
    const Element* from = row_of(row);
    const int count = from != nullptr ? valid : 0;
    from = count > 0 ? from + chunk * kElements : static_cast<const Element*>(base);
    if (params.aligned) {
      ptx::cp_async<kAttentionChunk>(to, from, count * static_cast<int>(sizeof(Element)));
    } else {
      *reinterpret_cast<Vector<Element, kElements>*>(to) = load_pack<kElements>(from, count, false);
    }
  }
}

// A warp's rows. In the layout of mma's d, with g = lane / 4 and t = lane % 4 * 2, entry i of fragment m is of row
// m * 16 + g + i / 2 * 8 and of column t + i % 2 of the fragment's eight.
template <class Shape>
using Scores = float[Shape::kFragments][Shape::kKeys / 8][4];

template <class Shape>
struct RowStates {
  float output[Shape::kFragments][Shape::kDepth / 8][4] = {};
  float reference[Shape::kFragments][2];  // the highest scaled score; minus infinity: no key seen
  float sum[Shape::kFragments][2] = {};   // of the weights of this thread's columns

  __device__ RowStates() {
#pragma unroll
    for (auto& pair : reference) pair[0] = pair[1] = -INFINITY;
  }
};

template <class Element, class Shape>
__device__ __forceinline__ void score_tile(Scores<Shape>& scores, const char* queries, const char* keys) {
  const int lane = threadIdx.x % kWarpLanes;
#pragma unroll
  for (int k = 0; k < Shape::kChunks; k += 2) {  // 16 elements are two chunks
    std::uint32_t left[Shape::kFragments][4];
#pragma unroll
    for (int m = 0; m < Shape::kFragments; ++m) {
      ptx::ldmatrix(left[m], queries + chunk_offset<Shape>(m * 16 + lane % 16, k + lane / 16));
    }
#pragma unroll
    for (int n = 0; n < Shape::kKeys / 8; n += 2) {
      std::uint32_t right[4];
      ptx::ldmatrix(right, keys + chunk_offset<Shape>(n * 8 + lane % 8 + lane / 16 * 8, k + lane / 8 % 2));
#pragma unroll
      for (int m = 0; m < Shape::kFragments; ++m) {
        ptx::mma_m16n8k16<Element>(scores[m][n], left[m], right[0], right[1]);
        ptx::mma_m16n8k16<Element>(scores[m][n + 1], left[m], right[2], right[3]);
      }
    }
  }
}

// Minus infinity for the keys that a row does not see. visible and bits are of the warp's rows.
template <class Shape>
__device__ __forceinline__ void mask_scores(Scores<Shape>& scores, const int* visible, int first_key,
                                            const std::uint32_t* bits) {
  const int lane = threadIdx.x % kWarpLanes;
#pragma unroll
  for (int m = 0; m < Shape::kFragments; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = m * 16 + lane / 4 + half * 8, left = visible[row] - first_key;
#pragma unroll
      for (int word = 0; word < Shape::kKeys / 32; ++word) {
        const int count = clamp(left - word * 32, 0, 32);
        std::uint32_t seen = count == 32 ? 0xffffffffu : (1u << count) - 1;
        if (bits != nullptr) seen &= bits[row * (Shape::kKeys / 32) + word];
        seen >>= lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          float& score = scores[m][word * 4 + i / 2][half * 2 + i % 2];
          if ((seen >> (i / 2 * 8 + i % 2) & 1) == 0) score = -INFINITY;
        }
      }
    }
  }
}

// Scores become weights relative to the rows' highest score so far; what was summed before is scaled to it.
template <class Shape>
__device__ __forceinline__ void weigh_tile(Scores<Shape>& scores, RowStates<Shape>& states, float scale_log2) {
#pragma unroll
  for (int m = 0; m < Shape::kFragments; ++m) {
    float factors[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto score = [&](int i) -> float& { return scores[m][i / 2][half * 2 + i % 2]; };
      factors[half] = weigh_row<Shape::kKeys / 4>(score, scale_log2, states.reference[m][half], states.sum[m][half]);
    }
    if (__any_sync(kAllLanes, factors[0] != 1.0f || factors[1] != 1.0f)) {
#pragma unroll
      for (int n = 0; n < Shape::kDepth / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) states.output[m][n][i] *= factors[i / 2];
      }
    }
  }
}

template <class Element, class Shape>
__device__ __forceinline__ void add_values(RowStates<Shape>& states, const Scores<Shape>& weights, const char* values) {
  const int lane = threadIdx.x % kWarpLanes;
#pragma unroll
  for (int k = 0; k < Shape::kKeys / 16; ++k) {
    std::uint32_t left[Shape::kFragments][4];
#pragma unroll
    for (int m = 0; m < Shape::kFragments; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* pair = &weights[m][2 * k + i / 2][i % 2 * 2];
        left[m][i] = pack_pair<Element>(pair[0], pair[1]);
      }
    }
#pragma unroll
    for (int n = 0; n < Shape::kDepth / 8; n += 2) {
      std::uint32_t right[4];
      ptx::ldmatrix_trans(right, values + chunk_offset<Shape>(k * 16 + lane % 16, n + lane / 16));
#pragma unroll
      for (int m = 0; m < Shape::kFragments; ++m) {
        ptx::mma_m16n8k16<Element>(states.output[m][n], left[m], right[0], right[1]);
        ptx::mma_m16n8k16<Element>(states.output[m][n + 1], left[m], right[2], right[3]);
      }
    }
  }
}

// The finished rows, or the split's part of them.
template <class Element, class Shape>
__device__ __forceinline__ void write_rows(RowStates<Shape>& states, const AttentionParams& params,
                                           const AttentionRows& rows, int warp_row) {
  const int lane = threadIdx.x % kWarpLanes;
#pragma unroll
  for (int m = 0; m < Shape::kFragments; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + m * 16 + lane / 4 + half * 8;
      const float sum = warp_sum<4>(states.sum[m][half]);
      if (row >= rows.count) continue;
      const HeadQuery at = head_query(params, rows, row);
      const auto output = [&](int i) { return states.output[m][i / 2][half * 2 + i % 2]; };
      if (params.splits == 1) {
        Element* out = head_row<Element>(params.out, rows.batch, at.query, at.head);
        write_row<Element, Shape::kDepth / 4>(params, out, sum, output);
        continue;
      }
      const std::int64_t part = whole_row(params, rows.batch, at) * params.splits + rows.split;
#pragma unroll
      for (int i = 0; i < Shape::kDepth / 4; i += 2) {
        const int column = i / 2 * 8 + lane % 4 * 2;
        store_pack<2>(params.outputs + part * params.depth + column, Vector<float, 2>{output(i), output(i + 1)},
                      params.depth - column, params.depth % 2 == 0);
      }
      if (lane % 4 == 0) {
        float* state = split_states(params) + part * 2;
        state[0] = states.reference[m][half];
        state[1] = sum;
      }
    }
  }
}

template <class Element, class Shape>
__global__ void __launch_bounds__(kAttentionThreads, 2) attention_kernel(AttentionParams params, int tiles) {
  LLADA_DYNAMIC_SHARED(char, shared);
  char *keys = shared + Shape::kQueryBytes, *values = keys + 2 * Shape::kTileBytes;
  auto& rows = *reinterpret_cast<AttentionRows*>(values + 2 * Shape::kTileBytes);  // no register is free for it
  auto* visible = reinterpret_cast<int*>(&rows + 1);
  auto* bits = reinterpret_cast<std::uint32_t*>(visible + Shape::kRows);
  if (threadIdx.x == 0) rows = find_rows<Shape::kRows>(params, tiles);
  __syncthreads();
  if (rows.count == 0) return;
  if (rows.split > 0 && rows.split >= used_splits(params, rows.keys)) return;
  const int warp_row = threadIdx.x / kWarpLanes * Shape::kFragments * 16;

  for (int row = threadIdx.x; row < Shape::kRows; row += kAttentionThreads) {
    visible[row] = row < rows.count ? visible_keys(params, rows, head_query(params, rows, row).query) : 0;
  }
  const auto load = [&](char* buffer, const HeadsArray& array, int first_key) {
    const Element* first =
        head_row<Element>(array, rows.batch, std::int64_t{rows.first_key} + first_key, rows.key_head);
    copy_rows<Element, Shape, Shape::kKeys>(buffer, params, array.data, [&](int row) {
      return first_key + row < rows.keys ? first + row * array.position_stride : nullptr;
    });
    ptx::cp_async_commit_group();
  };
  copy_rows<Element, Shape, Shape::kRows>(shared, params, params.q.data, [&](int row) -> const Element* {
    if (row >= rows.count) return nullptr;
    const HeadQuery at = head_query(params, rows, row);
    return head_row<Element>(params.q, rows.batch, at.query, at.head);
  });
  TileWalk<Shape> walk(params, rows, bits);
  bool more = walk.advance();
  if (more) {
    load(keys, params.k, walk.first_key());
    load(values, params.v, walk.first_key());
  }
  // Of a few queries' block some warps have no row; the larger blocks have no register for the question.
  const bool busy = Shape::kFragments > 1 || warp_row < rows.count;
  RowStates<Shape> states;
  while (more) {
    const int first_key = walk.first_key(), slot = walk.slot();
    const bool whole = walk.whole();
    more = walk.advance();
    ptx::cp_async_wait_group<1>();
    __syncthreads();  // the tile's keys are there, and all warps have left the buffers that are loaded next
    if (more) {
      load(keys + walk.slot() * Shape::kTileBytes, params.k, walk.first_key());
      load(values + walk.slot() * Shape::kTileBytes, params.v, walk.first_key());
    }
    Scores<Shape> scores = {};
    if (busy) {
      score_tile<Element, Shape>(scores, shared + warp_row * Shape::kRowBytes, keys + slot * Shape::kTileBytes);
      if (params.negative) {
#pragma unroll
        for (auto& fragment : scores) {
          for (auto& pairs : fragment) {
            for (float& score : pairs) score = -score;
          }
        }
      }
      if (!whole) {
        const std::uint32_t* tile_bits = bits + slot * Shape::kMaskWords + warp_row * (Shape::kKeys / 32);
        mask_scores<Shape>(scores, visible + warp_row, first_key, params.mask != nullptr ? tile_bits : nullptr);
      }
      weigh_tile<Shape>(scores, states, params.scale_log2);
    }
    if (more) {
      ptx::cp_async_wait_group<2>();
    } else {
      ptx::cp_async_wait_group<0>();
    }
    __syncthreads();  // the tile's values are there
    if (busy) add_values<Element, Shape>(states, scores, values + slot * Shape::kTileBytes);
  }
  ptx::cp_async_wait_all();
  write_rows<Element, Shape>(states, params, rows, warp_row);
}

// A warp per row: adds its splits in order.
template <class Element>
__global__ void __launch_bounds__(kAttentionThreads) combine_kernel(AttentionParams params) {
  const int lane = threadIdx.x % kWarpLanes;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kAttentionWarps + threadIdx.x / kWarpLanes;
  if (row >= static_cast<std::int64_t>(params.batch) * params.heads * params.queries) return;
  const auto query = static_cast<int>(row % params.queries);
  const auto head = static_cast<int>(row / params.queries % params.heads);
  const auto batch = static_cast<int>(row / params.queries / params.heads);
  const KeySpan keys = valid_keys(params, batch, {0, params.keys});
  const int splits = used_splits(params, keys.end - keys.first);
  const float* state = split_states(params) + (row * params.splits + lane) * 2;
  const float reference = lane < splits ? state[0] : -INFINITY;
  const float highest = warp_max(reference);
  const float factor = reference == -INFINITY ? 0.0f : exp2f(reference - highest);
  const float sum = warp_sum(lane < splits ? state[1] * factor : 0.0f), inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
  Element* out = head_row<Element>(params.out, batch, query, head);
  for (int first = 0; first < params.depth; first += kWarpLanes) {
    const int column = first + lane;
    float total = 0.0f;
    for (int split = 0; split < splits; ++split) {
      const float weight = __shfl_sync(kAllLanes, factor, split);
      if (column < params.depth)
        total += params.outputs[(row * params.splits + split) * params.depth + column] * weight;
    }
    if (column < params.depth) out[column] = from_float<Element>(total * inverse);
  }
}

template <class Element, class Shape>
int launch_rows(const AttentionParams& params) {
  const int tiles = row_tiles(params, Shape::kRows);
  const std::int64_t blocks = static_cast<std::int64_t>(tiles) * params.batch * params.key_heads * params.splits;
  if (blocks > kMaxBlocks) return cudaErrorInvalidConfiguration;
  const std::size_t mask_bytes = params.mask != nullptr ? 2 * Shape::kMaskWords * sizeof(std::uint32_t) : 0;
  const std::size_t further = sizeof(AttentionRows) + Shape::kRows * sizeof(int) + mask_bytes;
  const LaunchConfig config{dim3(static_cast<unsigned>(blocks)), dim3(kAttentionThreads),
                            Shape::kQueryBytes + 4 * Shape::kTileBytes + further, params.stream};
  return launch(config, attention_kernel<Element, Shape>, params, tiles);
}

// Blocks of 128 rows read keys half as often, where there are blocks enough; a row's bits are the same.
template <class Element, int kDepth>
int launch_depth(const AttentionParams& params) {
  constexpr std::int64_t kEnoughBlocks = 256;
  using Few = BlockShape<kDepth, 64, 1>;
  using Many = BlockShape<kDepth, 64, 2>;
  const std::int64_t heads = static_cast<std::int64_t>(params.batch) * params.key_heads;
  if (params.splits == 1 && row_tiles(params, Many::kRows) * heads >= kEnoughBlocks) {
    return launch_rows<Element, Many>(params);
  }
  return launch_rows<Element, Few>(params);
}

template <class Element>
int launch_element(const AttentionParams& params) {
  const int error = params.depth <= 64    ? launch_depth<Element, 64>(params)
                    : params.depth <= 128 ? launch_depth<Element, 128>(params)
                                          : launch_rows<Element, BlockShape<256, 32, 1>>(params);
  if (error != cudaSuccess || params.splits == 1) return error;
  const std::int64_t rows = static_cast<std::int64_t>(params.batch) * params.heads * params.queries;
  const LaunchConfig config{dim3(static_cast<unsigned>((rows + kAttentionWarps - 1) / kAttentionWarps)),
                            dim3(kAttentionThreads), 0, params.stream};
  return launch(config, combine_kernel<Element>, params);
}

}  // namespace

int attention_sm80(const AttentionParams& params) {
  if (params.dtype == DType::kBFloat16) return launch_element<__nv_bfloat16>(params);
  return launch_element<__half>(params);
}

}  // namespace llada::cuda

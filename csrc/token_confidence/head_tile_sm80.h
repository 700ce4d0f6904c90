// The head's logits by tiles of product_sm80.h, whose logits go no further than shared memory: 128 tokens x 32 or 128
// rows, rounded as the head gives them. Blocks of the same tokens are neighbours, so that the weight is read from
// memory once. A row's bias is read by every tile: it is short.
#pragma once

#include <cstddef>
#include <type_traits>

#include "common/host_device.h"
#include "cuda/launch.h"
#include "grouped_gemm/product_sm80.h"
#include "token_confidence/choices_sm80.h"

namespace llada::cuda {

inline constexpr int kLogitPitch = kVocabularyTile + 4;
// Blocks of a multiprocessor that registers must suffice for: the stages leave room for two.
inline constexpr int kLeastBlocks = 2;

LLADA_HOST_DEVICE inline std::int64_t tiles_of(const ProductParams& product) {
  return (product.columns + kVocabularyTile - 1) / kVocabularyTile;
}

// A lane's tokens of a row of a tile: minus infinity and 0 where absent; of the mask token, too, no key.
struct LaneTokens {
  float logits[kLaneTokens];
  std::uint64_t keys[kLaneTokens];
};

// By one warp: the mass of the keys above `above`, relative to that of a token with the logit `origin`.
__device__ __forceinline__ float mass_above(const LaneTokens& own, std::uint64_t above, float origin,
                                            const RowNoise& noise) {
  float mass = 0.0f;
#pragma unroll
  for (int i = 0; i < kLaneTokens; ++i) mass += own.keys[i] > above ? noise.mass(own.logits[i], origin) : 0.0f;
  return warp_sum(mass);
}

// By one warp: adds a row's bias to its logits in shared memory, in order.
__device__ __forceinline__ void add_bias(float* row_logits, const TokenConfidenceParams& params, std::int64_t row,
                                         std::int64_t first_token) {
  const int lane = threadIdx.x % kWarpLanes;
  const std::int64_t* tokens = params.bias_tokens + row * params.bias_token_strides[0];
  const float* values = params.bias_values + row * params.bias_value_strides[0];
  for (std::int64_t begin = 0; begin < params.bias_count; begin += kWarpLanes) {
    const std::int64_t own = begin + lane;
    const std::int64_t token = own < params.bias_count ? tokens[own * params.bias_token_strides[1]] : -1;
    const bool within = token >= first_token && token < first_token + kVocabularyTile;
    unsigned here = __ballot_sync(kAllLanes, within);
    for (; lane == 0 && here != 0; here &= here - 1) {
      const std::int64_t next = begin + __ffs(here) - 1;
      row_logits[tokens[next * params.bias_token_strides[1]] - first_token] +=
          values[next * params.bias_value_strides[1]];
    }
  }
  __syncwarp();
}

// Some rows of a tile of tokens.
struct TilePlace {
  std::int32_t first_row, rows, tile;
};

// Where block blockIdx.x of launch_head_tiles is.
template <class Shape>
__device__ __forceinline__ TilePlace tile_place(const ProductParams& product) {
  const auto row_tiles = static_cast<unsigned>((product.rows + Shape::kRows - 1) / Shape::kRows);
  const auto first_row = static_cast<std::int32_t>(blockIdx.x % row_tiles * Shape::kRows);
  const std::int32_t rows = min(Shape::kRows, static_cast<std::int32_t>(product.rows) - first_row);
  return {first_row, rows, static_cast<std::int32_t>(blockIdx.x / row_tiles)};
}

// A block's tile in shared memory. All of its threads make one and call load(); they meet before the next load().
template <class Element, class Shape, bool kAligned>
class HeadTile {
 public:
  static_assert(Shape::kWeightRows == kVocabularyTile && Shape::kColumnFragments == 2);
  static_assert(Shape::kRows * kLogitPitch * sizeof(float) <= Shape::kStages * Shape::kStageBytes);
  static constexpr int kWarps = Shape::kThreads / kWarpLanes, kAbsentWords = kVocabularyTile / 32;

  // `shared` holds the stages of the product; `absent` a bit for each token of the tile.
  __device__ __forceinline__ HeadTile(const TokenConfidenceParams& params, char* shared, unsigned* absent)
      : params_(params), shared_(shared), absent_(absent) {}

  __device__ __forceinline__ void load(const TilePlace& place) {
    const std::int32_t first_token = place.tile * static_cast<std::int32_t>(kVocabularyTile);
    first_row_ = place.first_row;
    first_token_ = first_token;
    if (threadIdx.x < kAbsentWords) absent_[threadIdx.x] = 0;
    __syncthreads();
    for (std::int64_t i = threadIdx.x; i < params_.forbidden_count; i += Shape::kThreads) {
      const std::int64_t at = i * params_.forbidden_stride;
      const std::int64_t token = params_.wide_forbidden ? static_cast<const std::int64_t*>(params_.forbidden)[at]
                                                        : static_cast<const std::int32_t*>(params_.forbidden)[at];
      const std::int64_t within = token - first_token;
      if (within >= 0 && within < kVocabularyTile) atomicOr(&absent_[within / 32], 1u << within % 32);
    }
    typename Shape::Sums sums = {};
    sum_tile<Element, Element, Shape, false, kAligned>(sums, shared_, params_.product, {0, place.first_row, place.rows},
                                                       first_token, {0, depth_steps<Element>(params_.product)});
    __syncthreads();
    auto* logits = reinterpret_cast<float*>(shared_);
    const int lane = threadIdx.x % kWarpLanes, warp = threadIdx.x / kWarpLanes;
    const int column = warp % Shape::kColumnWarps * 32 + lane / 4;
    const int tile_row = warp / Shape::kColumnWarps * Shape::kFragments * 8 + lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int n = 0; n < Shape::kFragments; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float logit = to_float(from_float<Element>(sums[m][n][i]));
          logits[(tile_row + n * 8 + i % 2) * kLogitPitch + column + m * 16 + i / 2 * 8] = logit;
        }
      }
    }
    __syncthreads();
  }

  // By one warp, once for each row after load().
  __device__ __forceinline__ LaneTokens tokens(int row_of_tile) const {
    float* row_logits = reinterpret_cast<float*>(shared_) + row_of_tile * kLogitPitch;
    if (params_.bias_tokens != nullptr) add_bias(row_logits, params_, first_row_ + row_of_tile, first_token_);
    const int lane = threadIdx.x % kWarpLanes;
    const float4 loaded = reinterpret_cast<const float4*>(row_logits)[lane];
    LaneTokens own{{loaded.x, loaded.y, loaded.z, loaded.w}, {}};
#pragma unroll
    for (int i = 0; i < kLaneTokens; ++i) {
      const int within = lane * kLaneTokens + i;
      const std::int64_t token = std::int64_t{first_token_} + within;
      const bool present = token < params_.product.columns && (absent_[within / 32] >> within % 32 & 1) == 0;
      if (!present) own.logits[i] = -INFINITY;
      own.keys[i] = token != params_.mask_token ? choice_key(own.logits[i], token) : 0;
    }
    return own;
  }

 private:
  const TokenConfidenceParams& params_;
  char* shared_;
  unsigned* absent_;
  std::int32_t first_row_ = 0, first_token_ = 0;
};

// Calls launch(element, shape, aligned) with the Element, the Shape and, as a type, whether rows are aligned.
template <class Launch>
int dispatch_tiles(const ProductParams& product, bool may_be_many, Launch launch) {
  return dispatch_floating(product.dtype, [&](auto element) -> int {
    constexpr std::int64_t kBytes = sizeof(element);
    const bool aligned = aligned_rows(product.x, product.x_stride * kBytes) &&
                         aligned_rows(product.weight, product.weight_stride * kBytes);
    if (!aligned) return launch(element, FewRows{}, std::false_type{});
    if constexpr (kBytes == 2) {
      if (may_be_many && product.rows > FewRows::kRows) return launch(element, ManyRows{}, std::true_type{});
    }
    return launch(element, FewRows{}, std::true_type{});
  });
}

// Launches kernel(params), a block for each tile and each Shape::kRows rows.
template <class Shape>
int launch_head_tiles(void (*kernel)(TokenConfidenceParams), const TokenConfidenceParams& params) {
  constexpr std::int64_t kMaxBlocks = 0x7fffffff;
  const std::int64_t row_tiles = (params.product.rows + Shape::kRows - 1) / Shape::kRows;
  const std::int64_t blocks = row_tiles * tiles_of(params.product);
  if (blocks > kMaxBlocks) return cudaErrorInvalidConfiguration;
  const LaunchConfig config{dim3(static_cast<unsigned>(blocks)), dim3(Shape::kThreads),
                            Shape::kStages * Shape::kStageBytes, params.product.stream};
  return launch(config, kernel, params);
}

// A block for each row.
inline int launch_rows(void (*kernel)(TokenConfidenceParams), int threads, std::size_t shared_bytes,
                       const TokenConfidenceParams& params) {
  const LaunchConfig config{dim3(static_cast<unsigned>(params.product.rows)), dim3(threads), shared_bytes,
                            params.product.stream};
  return launch(config, kernel, params);
}

// All threads of the block get whether a row of the tile is open.
__device__ __forceinline__ bool any_open(const TokenConfidenceParams& params, const TilePlace& place) {
  const auto* rows = reinterpret_cast<const OpenRow*>(params.open_rows) + place.first_row;
  return __syncthreads_or(static_cast<int>(threadIdx.x) < place.rows && rows[threadIdx.x].open != 0) != 0;
}

}  // namespace llada::cuda

// token_confidence: the head's product by tiles of product_sm80.h, whose logits go no further than shared memory.
//
//   tile_kernel   a block: 128 tokens x 32 or 128 rows of logits, rounded as the head gives them; then a warp per row:
//                 maximum, sum and weighted sum of powers, the two best tokens, the best with noise -> parts
//   parts         [rows, tiles]; blocks of the same tokens are neighbours, so that the weight is read from memory once
//   merge_kernel  a block per row: its parts, the sums in double
//
// Sums run over fixed trees, a choice is the largest of keys that no two tokens share: a row's bits depend on the row
// alone. Noise is drawn in double where it can win, which its value in float with a bound of the error tells.
// A row's bias is read by every tile: it is short.
#include "cuda/launch.h"
#include "cuda/reduce.h"
#include "grouped_gemm/product_sm80.h"
#include "token_confidence/choice_key.h"
#include "token_confidence/gumbel.h"
#include "token_confidence/token_confidence_cuda.h"

namespace llada::cuda {
namespace {

constexpr int kMergeThreads = 128, kMergeWarps = kMergeThreads / kWarpLanes;
constexpr int kLogitPitch = kVocabularyTile + 4, kLaneTokens = kVocabularyTile / kWarpLanes;
static_assert(kLaneTokens == 4);

struct Choice {
  std::uint64_t best, second, noised;  // keys
  double noised_value;

  __device__ __forceinline__ void offer(std::uint64_t key) {
    if (key > best) {
      second = best;
      best = key;
    } else if (key > second) {
      second = key;
    }
  }

  __device__ __forceinline__ void offer_noised(std::uint64_t key, double value) {
    if (key != 0 && (value > noised_value || (value == noised_value && has_lower_token(key, noised)))) {
      noised = key;
      noised_value = value;
    }
  }

  __device__ __forceinline__ void merge(const Choice& other) {
    offer(other.best);
    offer(other.second);
    offer_noised(other.noised, other.noised_value);
  }
};

__device__ __forceinline__ Choice no_choice() { return {0, 0, 0, -INFINITY}; }

// All lanes get the warp's.
__device__ __forceinline__ void merge_lanes(Choice& choice, bool noised) {
#pragma unroll
  for (int distance = 1; distance < kWarpLanes; distance *= 2) {
    Choice other = no_choice();
    other.best = __shfl_xor_sync(kAllLanes, choice.best, distance);
    other.second = __shfl_xor_sync(kAllLanes, choice.second, distance);
    if (noised) {
      other.noised = __shfl_xor_sync(kAllLanes, choice.noised, distance);
      other.noised_value = __shfl_xor_sync(kAllLanes, choice.noised_value, distance);
    }
    choice.merge(other);
  }
}

// What a tile adds to a row, and what it offers.
struct alignas(16) TilePart {
  float maximum, sum, weighted;  // of e^(l - maximum), and of (l - maximum) e^(l - maximum)
  Choice choice;
};
static_assert(sizeof(TilePart) == kTilePartFloats * sizeof(float));

struct HighestNumber {
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

__device__ __forceinline__ float approximate_noise(std::uint64_t bits) {
  const double uniform = GumbelStream::uniform(bits);
  const auto u = static_cast<float>(uniform);
  return -logf(u < 0.25f ? -log1pf(-u) : -logf(static_cast<float>(1.0 - uniform)));
}

// Offers the lane's tokens with noise; of those that in float are surely not the warp's best, none.
__device__ __forceinline__ void choose_noised(Choice& choice, const std::uint64_t (&keys)[kLaneTokens],
                                              const GumbelStream& stream, double temperature) {
  float most[kLaneTokens], least = -INFINITY;
#pragma unroll
  for (int i = 0; i < kLaneTokens; ++i) {
    const float logit = logit_of(keys[i]), factor = static_cast<float>(temperature);
    const float value = logit + factor * approximate_noise(stream.bits(token_of(keys[i])));
    const float error = 1e-6f * fabsf(logit) + 3e-5f * factor;
    most[i] = value + error;
    if (keys[i] != 0) least = fmaxf(least, value - error);
  }
  least = warp_reduce(least, HighestNumber());
#pragma unroll
  for (int i = 0; i < kLaneTokens; ++i) {
    if (keys[i] == 0 || most[i] < least) continue;
    const double noise = GumbelStream::noise(stream.bits(token_of(keys[i])));
    choice.offer_noised(keys[i], logit_of(keys[i]) + temperature * noise);
  }
}

// 0 where the row's own is out of range.
__device__ __forceinline__ double temperature_of(const TokenConfidenceParams& params, std::int64_t row) {
  if (params.temperatures == nullptr) return params.temperature;
  const std::int64_t at = row * params.temperature_stride;
  const double own = params.wide_temperatures ? static_cast<const double*>(params.temperatures)[at]
                                              : static_cast<const float*>(params.temperatures)[at];
  return own > 0.0 && own <= 1e30 ? own : 0.0;
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

// By one warp: the part of a row whose logits lie in shared memory. `absent` has a bit per token of the tile.
__device__ __forceinline__ TilePart summarize(const TokenConfidenceParams& params, const float* row_logits,
                                              std::int64_t row, std::int64_t first_token, const unsigned* absent) {
  const int lane = threadIdx.x % kWarpLanes;
  const float4 loaded = reinterpret_cast<const float4*>(row_logits)[lane];
  float logits[kLaneTokens] = {loaded.x, loaded.y, loaded.z, loaded.w};
  std::uint64_t keys[kLaneTokens];
  TilePart part{-INFINITY, 0.0f, 0.0f, no_choice()};
#pragma unroll
  for (int i = 0; i < kLaneTokens; ++i) {
    const int within = lane * kLaneTokens + i;
    const std::int64_t token = first_token + within;
    const bool present = token < params.product.columns && (absent[within / 32] >> within % 32 & 1) == 0;
    if (!present) logits[i] = -INFINITY;
    keys[i] = token != params.mask_token ? choice_key(logits[i], token) : 0;
    part.maximum = fmaxf(part.maximum, logits[i]);
    part.choice.offer(keys[i]);
  }
  part.maximum = warp_reduce(part.maximum, HighestNumber());
  const float reference = part.maximum == -INFINITY ? 0.0f : part.maximum;
#pragma unroll
  for (int i = 0; i < kLaneTokens; ++i) {
    const float shifted = logits[i] - reference, power = expf(shifted);
    part.sum += power;
    part.weighted += logits[i] == -INFINITY ? 0.0f : shifted * power;
  }
  part.sum = warp_sum(part.sum);
  part.weighted = warp_sum(part.weighted);
  const double temperature = temperature_of(params, row);
  if (temperature > 0.0) {
    const std::int64_t key =
        params.noise_keys != nullptr ? params.noise_keys[row * params.noise_key_stride] : params.first_row + row;
    choose_noised(part.choice, keys, GumbelStream(params.seed, key), temperature);
  }
  merge_lanes(part.choice, temperature > 0.0);
  return part;
}

template <class Element, class Shape, bool kAligned>
__global__ void __launch_bounds__(Shape::kThreads) tile_kernel(TokenConfidenceParams params) {
  static_assert(Shape::kWeightRows == kVocabularyTile && Shape::kColumnFragments == 2);
  static_assert(Shape::kRows * kLogitPitch * sizeof(float) <= Shape::kStages * Shape::kStageBytes);
  LLADA_DYNAMIC_SHARED(char, shared);
  LLADA_SHARED_ARRAY(unsigned, absent, kVocabularyTile / 32);
  const auto row_tiles = static_cast<unsigned>((params.product.rows + Shape::kRows - 1) / Shape::kRows);
  const auto first_token = static_cast<std::int32_t>(blockIdx.x / row_tiles * kVocabularyTile);
  const auto first_row = static_cast<std::int32_t>(blockIdx.x % row_tiles * Shape::kRows);
  const auto rows = static_cast<std::int32_t>(params.product.rows) - first_row;
  if (threadIdx.x < kVocabularyTile / 32) absent[threadIdx.x] = 0;
  __syncthreads();
  for (std::int64_t i = threadIdx.x; i < params.forbidden_count; i += Shape::kThreads) {
    const std::int64_t at = i * params.forbidden_stride;
    const std::int64_t token = params.wide_forbidden ? static_cast<const std::int64_t*>(params.forbidden)[at]
                                                     : static_cast<const std::int32_t*>(params.forbidden)[at];
    const std::int64_t within = token - first_token;
    if (within >= 0 && within < kVocabularyTile) atomicOr(&absent[within / 32], 1u << within % 32);
  }
  typename Shape::Sums sums = {};
  const RowTile row_tile{0, first_row, min(Shape::kRows, rows)};
  sum_tile<Element, Element, Shape, false, kAligned>(sums, shared, params.product, row_tile, first_token,
                                                     {0, depth_steps<Element>(params.product)});
  __syncthreads();

  auto* logits = reinterpret_cast<float*>(shared);
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
  const std::int64_t tiles = (params.product.columns + kVocabularyTile - 1) / kVocabularyTile;
  const std::int64_t tile = first_token / kVocabularyTile;
  for (int within = warp; within < row_tile.count; within += Shape::kThreads / kWarpLanes) {
    const std::int64_t row = first_row + within;
    float* row_logits = logits + within * kLogitPitch;
    if (params.bias_tokens != nullptr) add_bias(row_logits, params, row, first_token);
    const TilePart part = summarize(params, row_logits, row, first_token, absent);
    if (lane == 0) reinterpret_cast<TilePart*>(params.parts)[row * tiles + tile] = part;
  }
}

__global__ void __launch_bounds__(kMergeThreads) merge_kernel(TokenConfidenceParams params, std::int64_t tiles) {
  LLADA_SHARED_ARRAY(float, maxima, kMergeWarps);
  LLADA_SHARED_ARRAY(double, partial, kMergeWarps);
  LLADA_SHARED_ARRAY(Choice, choices, kMergeWarps);
  const std::int64_t row = blockIdx.x;
  const auto* parts = reinterpret_cast<const TilePart*>(params.parts) + row * tiles;
  const bool noised = temperature_of(params, row) > 0.0;
  float maximum = -INFINITY;
  Choice choice = no_choice();
  for (std::int64_t tile = threadIdx.x; tile < tiles; tile += kMergeThreads) {
    maximum = fmaxf(maximum, parts[tile].maximum);
    choice.merge(parts[tile].choice);
  }
  maximum = block_reduce<kMergeThreads>(maximum, HighestNumber(), maxima);
  merge_lanes(choice, noised);
  if (threadIdx.x % kWarpLanes == 0) choices[threadIdx.x / kWarpLanes] = choice;
  double sum = 0.0, weighted = 0.0;
  for (std::int64_t tile = threadIdx.x; tile < tiles; tile += kMergeThreads) {
    // Parts without any finite logit have sum zero (or NaN, which must pass).
    const TilePart& part = parts[tile];
    const double shift = part.maximum == -INFINITY ? 0.0 : static_cast<double>(part.maximum) - maximum;
    const double factor = exp(shift);
    sum += part.sum * factor;
    weighted += factor * (part.weighted + shift * part.sum);
  }
  sum = block_sum<kMergeThreads>(sum, partial);
  weighted = block_sum<kMergeThreads>(weighted, partial);
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kMergeWarps; ++warp) choice.merge(choices[warp]);

  const std::uint64_t chosen = noised ? choice.noised : choice.best;
  const std::uint64_t other = chosen == choice.best ? choice.second : choice.best;
  const double logsumexp = maximum + log(sum);
  const bool good = chosen != 0 && fabs(logsumexp) < INFINITY;
  const auto or_nan = [good](double value) { return good ? static_cast<float>(value) : __uint_as_float(0x7fc00000u); };
  params.token[row] = good ? token_of(chosen) : -1;
  params.runner_up[row] = good ? token_of(other) : -1;
  params.logprob[row] = or_nan(logit_of(chosen) - logsumexp);
  params.runner_up_logprob[row] = or_nan(logit_of(other) - logsumexp);
  params.entropy[row] = or_nan(fmax(log(sum) - weighted / sum, 0.0));
  params.logsumexp[row] = or_nan(logsumexp);
}

template <class Element, class Shape, bool kAligned>
int launch_token_tiles(const TokenConfidenceParams& params, std::int64_t tiles) {
  constexpr std::int64_t kMaxBlocks = 0x7fffffff;
  const std::int64_t blocks = (params.product.rows + Shape::kRows - 1) / Shape::kRows * tiles;
  if (blocks > kMaxBlocks) return cudaErrorInvalidConfiguration;
  const LaunchConfig config{dim3(static_cast<unsigned>(blocks)), dim3(Shape::kThreads),
                            Shape::kStages * Shape::kStageBytes, params.product.stream};
  return launch(config, tile_kernel<Element, Shape, kAligned>, params);
}

}  // namespace

int token_confidence_sm80(const TokenConfidenceParams& params) {
  const ProductParams& product = params.product;
  const std::int64_t tiles = (product.columns + kVocabularyTile - 1) / kVocabularyTile;
  const int error = dispatch_floating(product.dtype, [&](auto element) -> int {
    using Element = decltype(element);
    constexpr std::int64_t kBytes = sizeof(Element);
    const bool aligned = aligned_rows(product.x, product.x_stride * kBytes) &&
                         aligned_rows(product.weight, product.weight_stride * kBytes);
    if (!aligned) return launch_token_tiles<Element, FewRows, false>(params, tiles);
    if constexpr (kBytes == 2) {
      if (product.rows > FewRows::kRows) return launch_token_tiles<Element, ManyRows, true>(params, tiles);
    }
    return launch_token_tiles<Element, FewRows, true>(params, tiles);
  });
  if (error != cudaSuccess) return error;
  const LaunchConfig config{dim3(static_cast<unsigned>(product.rows)), dim3(kMergeThreads), 0, product.stream};
  return launch(config, merge_kernel, params, tiles);
}

}  // namespace llada::cuda

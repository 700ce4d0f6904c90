// token_confidence: a pass over the head by tiles, then the tiles' parts of each row put together.
//
//   tile_kernel   a block: a tile of logits (head_tile_sm80.h); then a warp per row: maximum, sum and weighted sum of
//                 powers, the two best tokens, the best with noise -> parts
//   parts         [rows, tiles]
//   merge_kernel  a block per row: its parts, the sums in double; writes the row unless top_k or top_p leave its choice
//                 open (token_top_k_sm80.cu, token_nucleus_sm80.cu)
//
// Sums run over fixed trees, a choice is the largest of keys that no two tokens share: a row's bits depend on the row
// alone.
#include "token_confidence/head_tile_sm80.h"

namespace llada::cuda {
namespace {

constexpr int kMergeThreads = 128, kMergeWarps = kMergeThreads / kWarpLanes;

// By one warp: what a tile adds to a row, and what it offers.
__device__ __forceinline__ TilePart summarize(const LaneTokens& own) {
  TilePart part{-INFINITY, 0.0f, 0.0f, 0.0f, {0, 0}, no_choice()};
#pragma unroll
  for (int i = 0; i < kLaneTokens; ++i) {
    part.maximum = fmaxf(part.maximum, own.logits[i]);
    part.two.offer(own.keys[i]);
  }
  part.maximum = warp_reduce(part.maximum, HighestNumber());
  const float reference = part.maximum == -INFINITY ? 0.0f : part.maximum;
#pragma unroll
  for (int i = 0; i < kLaneTokens; ++i) {
    const float shifted = own.logits[i] - reference, power = expf(shifted);
    part.sum += power;
    part.weighted += own.logits[i] == -INFINITY ? 0.0f : shifted * power;
  }
  part.sum = warp_sum(part.sum);
  part.weighted = warp_sum(part.weighted);
  merge_lanes(part.two);
  return part;
}

// By one warp: what noise chooses from a tile; where `choices` is not null it gets that, too, then what noise chooses
// from what is likelier, and so on, until it is the likeliest.
__device__ __forceinline__ NoisedChoice choose(const LaneTokens& own, std::uint64_t best, const RowNoise& noise,
                                               std::uint64_t* choices) {
  NoisedChoice first = no_choice();
  std::uint64_t above = 0;
#pragma unroll 1
  for (int i = 0; i < (choices != nullptr ? kTileChoices : 1); ++i) {
    NoisedChoice next = no_choice();
    if (above < best && (i == 0 || above != 0)) next = choose_noised(own.keys, above, noise);
    if (i == 0) first = next;
    if (choices != nullptr && threadIdx.x % kWarpLanes == 0) choices[i] = next.key;
    above = next.key;
  }
  return first;
}

template <class Element, class Shape, bool kAligned>
__global__ void __launch_bounds__(Shape::kThreads, kLeastBlocks) tile_kernel(TokenConfidenceParams params) {
  LLADA_DYNAMIC_SHARED(char, shared);
  LLADA_SHARED_ARRAY(unsigned, absent, kVocabularyTile / 32);
  const TilePlace place = tile_place<Shape>(params.product);
  HeadTile<Element, Shape, kAligned> head(params, shared, absent);
  head.load(place);
  const std::int64_t tiles = tiles_of(params.product);
  for (int within = threadIdx.x / kWarpLanes; within < place.rows; within += head.kWarps) {
    const std::int64_t row = place.first_row + within, at = row * tiles + place.tile;
    const LaneTokens own = head.tokens(within);
    TilePart part = summarize(own);
    const RowNoise noise = row_noise(params, row);
    if (noise.temperature > 0.0 && params.top_k == 0) {
      const bool nucleus = params.tile_choices != nullptr;
      if (nucleus) part.mass = mass_above(own, 0, logit_of(part.two.best), noise);
      std::uint64_t* choices = nucleus ? params.tile_choices + at * kTileChoices : nullptr;
      part.noised = choose(own, part.two.best, noise, choices);
    }
    if (threadIdx.x % kWarpLanes == 0) reinterpret_cast<TilePart*>(params.parts)[at] = part;
  }
}

__global__ void __launch_bounds__(kMergeThreads) merge_kernel(TokenConfidenceParams params) {
  LLADA_SHARED_ARRAY(float, maxima, kMergeWarps);
  LLADA_SHARED_ARRAY(double, partial, kMergeWarps);
  LLADA_SHARED_ARRAY(BestTwo, pairs, kMergeWarps);
  LLADA_SHARED_ARRAY(NoisedChoice, choices, kMergeWarps);
  const std::int64_t row = blockIdx.x, tiles = tiles_of(params.product);
  const auto* parts = reinterpret_cast<const TilePart*>(params.parts) + row * tiles;
  const RowNoise noise = row_noise(params, row);
  float maximum = -INFINITY;
  BestTwo own{0, 0}, two = own;
  NoisedChoice noised = no_choice();
  for (std::int64_t tile = threadIdx.x; tile < tiles; tile += kMergeThreads) {
    maximum = fmaxf(maximum, parts[tile].maximum);
    own.merge(parts[tile].two);
    noised.offer(parts[tile].noised.key, parts[tile].noised.value);
  }
  maximum = block_reduce<kMergeThreads>(maximum, HighestNumber(), maxima);
  merge_lanes(own);
  if (threadIdx.x % kWarpLanes == 0) pairs[threadIdx.x / kWarpLanes] = own;
  merge_threads<kMergeThreads>(noised, choices);
  for (int warp = 0; warp < kMergeWarps; ++warp) two.merge(pairs[warp]);

  const bool cut = noise.temperature > 0.0 && params.open_rows != nullptr, nucleus = cut && params.top_k == 0;
  double sum = 0.0, weighted = 0.0, mass = 0.0;
  for (std::int64_t tile = threadIdx.x; tile < tiles; tile += kMergeThreads) {
    // Parts without any finite logit have sum zero (or NaN, which must pass).
    const TilePart& part = parts[tile];
    const double shift = part.maximum == -INFINITY ? 0.0 : static_cast<double>(part.maximum) - maximum;
    const double factor = exp(shift);
    sum += part.sum * factor;
    weighted += factor * (part.weighted + shift * part.sum);
    if (nucleus && part.two.best != 0) mass += part.mass * noise.wide_mass(logit_of(part.two.best), logit_of(two.best));
  }
  sum = block_sum<kMergeThreads>(sum, partial);
  weighted = block_sum<kMergeThreads>(weighted, partial);
  if (nucleus) mass = block_sum<kMergeThreads>(mass, partial);
  if (threadIdx.x != 0) return;

  OpenRow known{};
  known.logsumexp = maximum + log(sum);
  known.entropy = fmax(log(sum) - weighted / sum, 0.0);
  known.two = two;
  known.nucleus = params.top_p * mass;
  const bool best_alone = nucleus ? known.nucleus <= 1.0 : params.top_k == 1;
  const bool settled =
      !cut || two.best == 0 || !(fabs(known.logsumexp) < INFINITY) || best_alone || (nucleus && noised.key == two.best);
  known.open = settled ? 0 : 1;
  if (params.open_rows != nullptr) reinterpret_cast<OpenRow*>(params.open_rows)[row] = known;
  if (settled) write_row(params, row, known, noise.temperature == 0.0 || cut ? two.best : noised.key);
}

}  // namespace

int token_confidence_sm80(const TokenConfidenceParams& params) {
  const int tiles = dispatch_tiles(params.product, true, [&](auto element, auto shape, auto aligned) {
    using Shape = decltype(shape);
    return launch_head_tiles<Shape>(tile_kernel<decltype(element), Shape, decltype(aligned)::value>, params);
  });
  if (tiles != cudaSuccess) return tiles;
  if (const int error = launch_rows(merge_kernel, kMergeThreads, 0, params)) return error;
  if (params.top_k > 0) return token_top_k_sm80(params);
  return params.top_p < 1.0 ? token_nucleus_sm80(params) : cudaSuccess;
}

}  // namespace llada::cuda

// token_confidence with top_p alone: what noise chooses from the nucleus, whose end is not looked for.
//
// Let w0 be what noise chooses from all tokens, w1 what it chooses from those likelier than w0, and so on up to the
// likeliest: the choice is the first that is in the nucleus, for one is if what is likelier has a smaller share of the
// mass than top_p. The pass before has w0, w1, ... of each tile, from which those of the row follow; one more pass
// gives the mass above each. That the first n are outside has the probability that the product of n uniform numbers is
// above top_p: 5e-6 for n = 4 at top_p = 0.9.
//
//   choices_kernel  a block per row: its first w's, as far as its tiles' are known
//   masses_kernel   a block: a tile of logits; per row the mass above each w -> masses, in the place of the tiles' w's
//   settle_kernel   a block per row: the first w of which the mass says that it is in the nucleus
//   search_kernel   a block per row: where there is none, one w after the other, each by a pass over the head
//
// Rows that are not open are left alone, and so are the tiles of nothing but such rows.
#include "token_confidence/head_tile_sm80.h"

namespace llada::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarpLanes;
constexpr std::uint64_t kUnknown = ~std::uint64_t{0};  // which wins against tokens of the same value
constexpr int kMassPitch = kTileChoices * sizeof(std::uint64_t) / sizeof(float);
static_assert(kRowChoices <= kMassPitch);

__device__ __forceinline__ OpenRow& open_row(const TokenConfidenceParams& params, std::int64_t row) {
  return reinterpret_cast<OpenRow*>(params.open_rows)[row];
}

__device__ __forceinline__ float* masses_of(const TokenConfidenceParams& params, std::int64_t tile_of_row) {
  return reinterpret_cast<float*>(params.tile_choices + tile_of_row * kTileChoices);
}

// Offers what noise chooses from a tile's keys above `above`: its first w there. Where the tile's last is not above and
// not its likeliest, others may be, of less value than the last: kUnknown stands for them.
__device__ __forceinline__ void offer_tile(NoisedChoice& choice, const std::uint64_t* choices, std::uint64_t best,
                                           std::uint64_t above, const RowNoise& noise) {
  if (best <= above) return;
  int first = 0;
  while (first < kTileChoices - 1 && choices[first] <= above) ++first;
  const std::uint64_t key = choices[first];
  if (noise.bounds(key).most < choice.value) return;
  choice.offer(key > above ? key : kUnknown, noise.value(key));
}

__global__ void __launch_bounds__(kThreads) choices_kernel(TokenConfidenceParams params) {
  LLADA_SHARED_ARRAY(NoisedChoice, shared_choices, kWarps);
  const std::int64_t row = blockIdx.x, tiles = tiles_of(params.product);
  OpenRow& known = open_row(params, row);
  if (known.open == 0) return;
  const RowNoise noise = row_noise(params, row);
  std::uint64_t above = 0;
  for (int i = 0; i < kRowChoices && above != known.two.best; ++i) {
    NoisedChoice choice = no_choice();
    for (std::int64_t tile = threadIdx.x; tile < tiles; tile += kThreads) {
      const std::int64_t at = row * tiles + tile;
      const TilePart& part = reinterpret_cast<const TilePart*>(params.parts)[at];
      offer_tile(choice, params.tile_choices + at * kTileChoices, part.two.best, above, noise);
    }
    merge_threads<kThreads>(choice, shared_choices);
    if (choice.key == kUnknown) break;
    if (threadIdx.x == 0) known.choices[i] = choice.key;
    above = choice.key;
  }
}

template <class Element, class Shape, bool kAligned>
__global__ void __launch_bounds__(Shape::kThreads, kLeastBlocks) masses_kernel(TokenConfidenceParams params) {
  LLADA_DYNAMIC_SHARED(char, shared);
  LLADA_SHARED_ARRAY(unsigned, absent, kVocabularyTile / 32);
  const TilePlace place = tile_place<Shape>(params.product);
  if (!any_open(params, place)) return;
  HeadTile<Element, Shape, kAligned> head(params, shared, absent);
  head.load(place);
  const std::int64_t tiles = tiles_of(params.product);
  for (int within = threadIdx.x / kWarpLanes; within < place.rows; within += head.kWarps) {
    const std::int64_t row = place.first_row + within;
    const OpenRow& known = open_row(params, row);
    if (known.open == 0) continue;
    const RowNoise noise = row_noise(params, row);
    const LaneTokens own = head.tokens(within);
    float* masses = masses_of(params, row * tiles + place.tile);
    for (int i = 0; i < kRowChoices && known.choices[i] != 0; ++i) {
      const float mass = mass_above(own, known.choices[i], logit_of(known.two.best), noise);
      if (threadIdx.x % kWarpLanes == 0) masses[i] = mass;
    }
  }
}

__global__ void __launch_bounds__(kThreads) settle_kernel(TokenConfidenceParams params) {
  LLADA_SHARED_ARRAY(double, partial, kWarps);
  const std::int64_t row = blockIdx.x, tiles = tiles_of(params.product);
  OpenRow& known = open_row(params, row);
  if (known.open == 0) return;
  std::uint64_t chosen = 0, last = 0;
  for (int i = 0; i < kRowChoices && known.choices[i] != 0 && chosen == 0; ++i) {
    last = known.choices[i];
    double mass = 0.0;
    for (std::int64_t tile = threadIdx.x; tile < tiles; tile += kThreads)
      mass += masses_of(params, row * tiles + tile)[i];
    if (block_sum<kThreads>(mass, partial) < known.nucleus) chosen = last;
  }
  // An open row has a first choice: every thread has read what changes here before the barriers of that one's sum.
  if (threadIdx.x != 0) return;
  known.open = chosen == 0 ? 1 : 0;
  known.choices[0] = last;
  if (chosen != 0) write_row(params, row, known, chosen);
}

// A pass of search_kernel, in shared memory: registers are the product's.
struct Search {
  std::uint64_t choice;
  NoisedChoice likelier;
  double mass;  // of what is likelier than the choice
};

template <class Element, class Shape, bool kAligned>
__global__ void __launch_bounds__(Shape::kThreads, kLeastBlocks) search_kernel(TokenConfidenceParams params) {
  LLADA_DYNAMIC_SHARED(char, shared);
  LLADA_SHARED_ARRAY(unsigned, absent, kVocabularyTile / 32);
  LLADA_SHARED_ARRAY(Search, search, 1);
  const auto row = static_cast<std::int32_t>(blockIdx.x);
  const OpenRow& known = open_row(params, row);
  if (known.open == 0) return;
  const auto tiles = static_cast<std::int32_t>(tiles_of(params.product));
  HeadTile<Element, Shape, kAligned> head(params, shared, absent);
  if (threadIdx.x == 0) search[0] = {known.choices[0], no_choice(), 0.0};
  while (true) {
    for (std::int32_t tile = 0; tile < tiles; ++tile) {
      head.load({row, 1, tile});
      if (threadIdx.x < kWarpLanes) {
        const RowNoise noise = row_noise(params, row);
        const LaneTokens own = head.tokens(0);
        const NoisedChoice likelier = choose_noised(own.keys, search[0].choice, noise);
        const float mass = mass_above(own, search[0].choice, logit_of(known.two.best), noise);
        if (threadIdx.x == 0) {
          search[0].likelier.offer(likelier.key, likelier.value);
          search[0].mass += mass;
        }
      }
      __syncthreads();
    }
    const bool within = search[0].mass < known.nucleus;
    __syncthreads();
    if (within) break;
    if (threadIdx.x == 0) search[0] = {search[0].likelier.key, no_choice(), 0.0};
  }
  if (threadIdx.x == 0) write_row(params, row, known, search[0].choice);
}

}  // namespace

int token_nucleus_sm80(const TokenConfidenceParams& params) {
  if (const int error = launch_rows(choices_kernel, kThreads, 0, params)) return error;
  const int masses = dispatch_tiles(params.product, true, [&](auto element, auto shape, auto aligned) {
    using Shape = decltype(shape);
    return launch_head_tiles<Shape>(masses_kernel<decltype(element), Shape, decltype(aligned)::value>, params);
  });
  if (masses != cudaSuccess) return masses;
  if (const int error = launch_rows(settle_kernel, kThreads, 0, params)) return error;
  return dispatch_tiles(params.product, false, [&](auto element, auto shape, auto aligned) {
    using Shape = decltype(shape);
    return launch_rows(search_kernel<decltype(element), Shape, decltype(aligned)::value>, Shape::kThreads,
                       Shape::kStages * Shape::kStageBytes, params);
  });
}

}  // namespace llada::cuda

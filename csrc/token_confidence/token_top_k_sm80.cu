// token_confidence with top_k: a second pass over the head, which keeps the few keys that can be among the k largest.
//
//   bound_kernel    a block per row: the k-th largest of its tiles' two best, at most the k-th largest of all
//   collect_kernel  a block: a tile of logits; its keys from the bound on -> candidates, in any order
//   choose_kernel   a block per row: the k largest candidates, of these the nucleus, of these the best with noise
//
// Of k keys from the bound on at most k / 2 tiles have two, each with at most 128 keys from there on: there are at most
// 64 k candidates, and where likely tokens lie apart about k. Rows that are not open are left alone, and so are the
// tiles of nothing but such rows.
#include "token_confidence/head_tile_sm80.h"

namespace llada::cuda {
namespace {

constexpr int kThreads = 256;
static_assert(kMaxTopK <= kThreads && kCandidatesPerKept >= kVocabularyTile / 2);

// All threads get the k-th largest of key_at(0 .. count - 1), of which none but 0 is there twice; 1 where fewer are
// above 0.
template <class KeyAt>
__device__ __forceinline__ std::uint64_t kth_largest(std::int64_t count, int k, int* partial, KeyAt key_at) {
  std::uint64_t low = 1, high = ~std::uint64_t{0};
  while (low < high) {
    const std::uint64_t middle = low + (high - low) / 2 + (high - low) % 2;
    int from = 0;
    for (std::int64_t i = threadIdx.x; i < count; i += kThreads) from += key_at(i) >= middle;
    from = block_sum<kThreads>(from, partial);
    if (from == k) return middle;
    if (from > k) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

__global__ void __launch_bounds__(kThreads) bound_kernel(TokenConfidenceParams params) {
  LLADA_SHARED_ARRAY(int, partial, kThreads / kWarpLanes);
  OpenRow& known = reinterpret_cast<OpenRow*>(params.open_rows)[blockIdx.x];
  if (known.open == 0) return;
  const std::int64_t tiles = tiles_of(params.product);
  const auto* parts = reinterpret_cast<const TilePart*>(params.parts) + blockIdx.x * tiles;
  const std::uint64_t least = kth_largest(2 * tiles, params.top_k, partial, [&](std::int64_t i) {
    return i % 2 == 0 ? parts[i / 2].two.best : parts[i / 2].two.second;
  });
  if (threadIdx.x == 0) known.least = least;
}

template <class Element, class Shape, bool kAligned>
__global__ void __launch_bounds__(Shape::kThreads, kLeastBlocks) collect_kernel(TokenConfidenceParams params) {
  LLADA_DYNAMIC_SHARED(char, shared);
  LLADA_SHARED_ARRAY(unsigned, absent, kVocabularyTile / 32);
  const TilePlace place = tile_place<Shape>(params.product);
  if (!any_open(params, place)) return;
  HeadTile<Element, Shape, kAligned> head(params, shared, absent);
  head.load(place);
  const int lane = threadIdx.x % kWarpLanes;
  for (int within = threadIdx.x / kWarpLanes; within < place.rows; within += head.kWarps) {
    const std::int64_t row = place.first_row + within;
    OpenRow& known = reinterpret_cast<OpenRow*>(params.open_rows)[row];
    if (known.open == 0) continue;
    const std::uint64_t least = known.least;
    const LaneTokens own = head.tokens(within);
    std::uint64_t* candidates = params.candidates + row * kCandidatesPerKept * params.top_k;
#pragma unroll
    for (int i = 0; i < kLaneTokens; ++i) {
      const unsigned kept = __ballot_sync(kAllLanes, own.keys[i] >= least);
      unsigned begin = 0;
      if (lane == 0 && kept != 0) begin = atomicAdd(&known.candidates, __popc(kept));
      begin = __shfl_sync(kAllLanes, begin, 0);
      if (own.keys[i] >= least) candidates[begin + __popc(kept & ((1u << lane) - 1))] = own.keys[i];
    }
  }
}

__global__ void __launch_bounds__(kThreads) choose_kernel(TokenConfidenceParams params) {
  LLADA_SHARED_ARRAY(int, partial, kThreads / kWarpLanes);
  LLADA_SHARED_ARRAY(std::uint64_t, kept, kMaxTopK);
  LLADA_SHARED_ARRAY(double, masses, kMaxTopK);
  LLADA_SHARED_ARRAY(NoisedChoice, choices, kThreads / kWarpLanes);
  LLADA_SHARED_ARRAY(int, size, 1);
  const std::int64_t row = blockIdx.x;
  const OpenRow& known = reinterpret_cast<const OpenRow*>(params.open_rows)[row];
  if (known.open == 0) return;
  const RowNoise noise = row_noise(params, row);
  const std::uint64_t* candidates = params.candidates + row * kCandidatesPerKept * params.top_k;
  const auto count = static_cast<std::int64_t>(known.candidates);
  const std::uint64_t least = kth_largest(count, params.top_k, partial, [&](std::int64_t i) { return candidates[i]; });
  if (threadIdx.x == 0) size[0] = 0;
  __syncthreads();
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) {
    if (candidates[i] >= least) kept[atomicAdd(&size[0], 1)] = candidates[i];
  }
  __syncthreads();

  // Each key to its place, the largest first.
  const int kept_count = size[0], thread = threadIdx.x;
  const std::uint64_t key = thread < kept_count ? kept[thread] : 0;
  int place = 0;
  for (int i = 0; i < kept_count; ++i) place += kept[i] > key;
  __syncthreads();
  if (key != 0) {
    kept[place] = key;
    masses[place] = noise.wide_mass(logit_of(key), logit_of(known.two.best));
  }
  __syncthreads();
  if (thread == 0 && params.top_p < 1.0) {
    double all = 0.0, reached = 0.0;
    for (int i = 0; i < kept_count; ++i) all += masses[i];
    int end = 0;
    while (end < kept_count && reached < params.top_p * all) reached += masses[end++];
    size[0] = end;
  }
  __syncthreads();
  NoisedChoice choice = no_choice();
  if (thread < size[0]) choice.offer(kept[thread], noise.value(kept[thread]));
  merge_threads<kThreads>(choice, choices);
  if (thread == 0) write_row(params, row, known, choice.key);
}

}  // namespace

int token_top_k_sm80(const TokenConfidenceParams& params) {
  if (const int error = launch_rows(bound_kernel, kThreads, 0, params)) return error;
  const int collected = dispatch_tiles(params.product, true, [&](auto element, auto shape, auto aligned) {
    using Shape = decltype(shape);
    return launch_head_tiles<Shape>(collect_kernel<decltype(element), Shape, decltype(aligned)::value>, params);
  });
  return collected != cudaSuccess ? collected : launch_rows(choose_kernel, kThreads, 0, params);
}

}  // namespace llada::cuda

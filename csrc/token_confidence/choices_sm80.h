// The choices of token_confidence on a GPU: keys of choice_key.h, which no two tokens share, so that the largest do not
// depend on the order in which they come.
#pragma once

#include "cuda/reduce.h"
#include "token_confidence/choice_key.h"
#include "token_confidence/gumbel.h"
#include "token_confidence/token_confidence_cuda.h"

namespace llada::cuda {

inline constexpr int kLaneTokens = kVocabularyTile / kWarpLanes;  // a warp looks at a row of a tile
static_assert(kLaneTokens == 4);

struct BestTwo {
  std::uint64_t best, second;

  __device__ __forceinline__ void offer(std::uint64_t key) {
    if (key > best) {
      second = best;
      best = key;
    } else if (key > second) {
      second = key;
    }
  }

  __device__ __forceinline__ void merge(const BestTwo& other) {
    offer(other.best);
    offer(other.second);
  }
};

// Of tokens under noise, the one of the largest value.
struct NoisedChoice {
  std::uint64_t key;
  double value;

  __device__ __forceinline__ void offer(std::uint64_t other, double other_value) {
    if (other != 0 && (other_value > value || (other_value == value && has_lower_token(other, key)))) {
      key = other;
      value = other_value;
    }
  }
};

__device__ __forceinline__ NoisedChoice no_choice() { return {0, -INFINITY}; }

// All lanes get the warp's.
__device__ __forceinline__ void merge_lanes(BestTwo& two) {
#pragma unroll
  for (int distance = 1; distance < kWarpLanes; distance *= 2) {
    const std::uint64_t best = __shfl_xor_sync(kAllLanes, two.best, distance);
    const std::uint64_t second = __shfl_xor_sync(kAllLanes, two.second, distance);
    two.merge({best, second});
  }
}

__device__ __forceinline__ void merge_lanes(NoisedChoice& choice) {
#pragma unroll
  for (int distance = 1; distance < kWarpLanes; distance *= 2) {
    const std::uint64_t key = __shfl_xor_sync(kAllLanes, choice.key, distance);
    const double value = __shfl_xor_sync(kAllLanes, choice.value, distance);
    choice.offer(key, value);
  }
}

// All threads get the block's; `choices` is shared memory that nothing else uses, of one for each warp.
template <int kThreads>
__device__ __forceinline__ void merge_threads(NoisedChoice& choice, NoisedChoice* choices) {
  merge_lanes(choice);
  __syncthreads();
  if (threadIdx.x % kWarpLanes == 0) choices[threadIdx.x / kWarpLanes] = choice;
  __syncthreads();
  for (int warp = 0; warp < kThreads / kWarpLanes; ++warp) choice.offer(choices[warp].key, choices[warp].value);
}

struct HighestNumber {
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

struct ValueBounds {
  float least, most;
};

// What a row's noise is drawn from, at its temperature; 0 is none.
struct RowNoise {
  double temperature;
  GumbelStream stream;

  __device__ __forceinline__ double value(std::uint64_t key) const {
    return logit_of(key) + temperature * GumbelStream::noise(stream.bits(token_of(key)));
  }

  // Of the value, in float.
  __device__ __forceinline__ ValueBounds bounds(std::uint64_t key) const {
    const double uniform = GumbelStream::uniform(stream.bits(token_of(key)));
    const auto u = static_cast<float>(uniform);
    const float noise = -logf(u < 0.25f ? -log1pf(-u) : -logf(static_cast<float>(1.0 - uniform)));
    const float logit = logit_of(key), factor = static_cast<float>(temperature);
    const float middle = logit + factor * noise, error = 1e-6f * fabsf(logit) + 3e-5f * factor;
    return {middle - error, middle + error};
  }

  // That of a token relative to the mass of one with the logit `origin`.
  __device__ __forceinline__ float mass(float logit, float origin) const {
    return expf((logit - origin) * static_cast<float>(fmin(1.0 / temperature, 1e30)));
  }

  __device__ __forceinline__ double wide_mass(float logit, float origin) const {
    return exp((static_cast<double>(logit) - origin) / temperature);
  }
};

__device__ __forceinline__ RowNoise row_noise(const TokenConfidenceParams& params, std::int64_t row) {
  double temperature = params.temperature;
  if (params.temperatures != nullptr) {
    const std::int64_t at = row * params.temperature_stride;
    temperature = params.wide_temperatures ? static_cast<const double*>(params.temperatures)[at]
                                           : static_cast<const float*>(params.temperatures)[at];
    if (!(temperature > 0.0 && temperature <= 1e30)) temperature = 0.0;
  }
  const std::int64_t key =
      params.noise_keys != nullptr ? params.noise_keys[row * params.noise_key_stride] : params.first_row + row;
  return {temperature, GumbelStream(params.seed, key)};
}

// By one warp: the best under noise of the keys above `above`, which all lanes get. Noise is drawn in double where it
// can win, which the bounds tell.
__device__ __forceinline__ NoisedChoice choose_noised(const std::uint64_t (&keys)[kLaneTokens], std::uint64_t above,
                                                      const RowNoise& noise) {
  float most[kLaneTokens], least = -INFINITY;
#pragma unroll
  for (int i = 0; i < kLaneTokens; ++i) {
    const ValueBounds bounds = noise.bounds(keys[i]);
    most[i] = bounds.most;
    if (keys[i] > above) least = fmaxf(least, bounds.least);
  }
  least = warp_reduce(least, HighestNumber());
  NoisedChoice choice = no_choice();
#pragma unroll
  for (int i = 0; i < kLaneTokens; ++i) {
    if (keys[i] > above && !(most[i] < least)) choice.offer(keys[i], noise.value(keys[i]));
  }
  merge_lanes(choice);
  return choice;
}

// What a tile has of a row.
struct alignas(16) TilePart {
  float maximum, sum, weighted;  // of e^(l - maximum), and of (l - maximum) e^(l - maximum)
  float mass;                    // of what may be chosen, relative to the best; with top_p alone
  BestTwo two;
  NoisedChoice noised;
};
static_assert(sizeof(TilePart) == kTilePartFloats * sizeof(float));

// What is known of a row whose choice top_k or top_p leaves open.
struct alignas(16) OpenRow {
  double logsumexp, entropy;
  BestTwo two;
  double nucleus;  // top_p's share of the mass, relative to the mass of the best
  // top_p: what noise chooses from all, from what is likelier than that, and so on; 0 after the last.
  std::uint64_t choices[kRowChoices];
  std::uint64_t least;  // top_k: of the candidates
  unsigned candidates;  // how many there are
  unsigned open;
};
static_assert(sizeof(OpenRow) == kOpenRowFloats * sizeof(float));

// Token -1 and NaN where the distribution is not finite or nothing may be chosen. By one thread.
__device__ __forceinline__ void write_row(const TokenConfidenceParams& params, std::int64_t row, const OpenRow& known,
                                          std::uint64_t chosen) {
  const std::uint64_t other = chosen == known.two.best ? known.two.second : known.two.best;
  const bool good = chosen != 0 && fabs(known.logsumexp) < INFINITY;
  const auto or_nan = [good](double value) { return good ? static_cast<float>(value) : __uint_as_float(0x7fc00000u); };
  params.token[row] = good ? token_of(chosen) : -1;
  params.runner_up[row] = good ? token_of(other) : -1;
  params.logprob[row] = or_nan(logit_of(chosen) - known.logsumexp);
  params.runner_up_logprob[row] = or_nan(logit_of(other) - known.logsumexp);
  params.entropy[row] = or_nan(known.entropy);
  params.logsumexp[row] = or_nan(known.logsumexp);
}

}  // namespace llada::cuda

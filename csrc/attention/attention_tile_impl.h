// The body of the tile, compiled once per instruction set: include exactly one cpu/vector_*.h before it.
#pragma once

#include <cstdint>
#include <cstring>

#include "attention/attention_tile.h"
#include "common/bfloat16.h"

namespace llada {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();
constexpr int kPairWidth = 2 * Vector::kWidth;  // columns of a panel taken at once

template <class Element>
constexpr int kLaneValues = 4 / static_cast<int>(sizeof(Element));

// sum[m] = rows[m] x panel over `lanes` lanes, for two vectors of the panel's columns.
template <class Element, int Rows>
LLADA_INLINE void product(const std::uint32_t* rows, std::int64_t row_stride, const std::uint32_t* panel,
                          std::int64_t lanes, Vector::Float (&sum)[Rows][2]) {
  for (int m = 0; m < Rows; ++m) sum[m][0] = sum[m][1] = Vector::set(0.0f);
  for (std::int64_t lane = 0; lane < lanes; ++lane, panel += kAttentionColumns) {
    const auto left = Vector::load_lanes(panel), right = Vector::load_lanes(panel + Vector::kWidth);
#pragma GCC unroll 12
    for (int m = 0; m < Rows; ++m) {
      const auto value = Vector::broadcast_lane(rows + m * row_stride + lane);
      sum[m][0] = Vector::dot<Element>(sum[m][0], left, value);
      sum[m][1] = Vector::dot<Element>(sum[m][1], right, value);
    }
  }
}

template <class Element, int Rows>
void load_query(const AttentionTileArgs& args) {
  std::memset(args.query_lanes, 0, static_cast<std::size_t>(Rows) * args.depth_lanes * 4);
  for (int m = 0; m < args.num_rows; ++m) {
    const auto* row = static_cast<const Element*>(args.query) + m * args.query_stride;
    std::memcpy(args.query_lanes + m * args.depth_lanes, row, args.depth * sizeof(Element));
  }
}

// Scaled scores of the keys [first, first + count), rounded up to whole panels. Depths beyond 128 lanes are summed in
// parts: one chain of 256 fp32 additions would lose a bit against library GEMMs.
template <class Element, int Rows>
void score_keys(const AttentionTileArgs& args, std::int64_t first, int count) {
  constexpr int kChainLanes = 128;
  const std::int64_t panel_size = static_cast<std::int64_t>(args.depth_lanes) * kAttentionColumns;
  const auto scale = Vector::set(args.scale_log2);
  for (int key = 0; key < count; key += kPairWidth) {
    const std::int64_t column = first + key;
    const std::uint32_t* panel = args.keys + column / kAttentionColumns * panel_size + column % kAttentionColumns;
    for (int lane = 0; lane < args.depth_lanes; lane += kChainLanes) {
      const int lanes = args.depth_lanes - lane < kChainLanes ? args.depth_lanes - lane : kChainLanes;
      Vector::Float sum[Rows][2];
      product<Element, Rows>(args.query_lanes + lane, args.depth_lanes, panel + lane * kAttentionColumns, lanes, sum);
      for (int m = 0; m < Rows; ++m) {
        for (int half = 0; half < 2; ++half) {
          float* out = args.scores + m * kAttentionKeyBlock + key + half * Vector::kWidth;
          const auto earlier = lane == 0 ? Vector::set(0.0f) : Vector::load(out);
          Vector::store(out, Vector::multiply_add(sum[m][half], scale, earlier));
        }
      }
    }
  }
}

// Minus infinity for the keys row m may not see, up to `padded` scores.
LLADA_INLINE void mask_scores(const AttentionTileArgs& args, int m, std::int64_t first, int padded, float* scores) {
  const std::int64_t left = args.row_keys[m] - first;
  const int seen = left <= 0 ? 0 : left < padded ? static_cast<int>(left) : padded;
  if (args.mask != nullptr) {
    const std::uint8_t* mask = args.mask + m * args.mask_row_stride + first * args.mask_key_stride;
    for (int key = 0; key < seen; ++key) {
      scores[key] = mask[key * args.mask_key_stride] != 0 ? scores[key] : kMinusInfinity;
    }
  }
  for (int key = seen; key < padded; ++key) scores[key] = kMinusInfinity;
}

struct RunningSoftmax {
  float maximum = kMinusInfinity;
  float sum = 0.0f;
};

// Turns one row's scores into weights, updates the running maximum and sum; returns the factor for earlier sums.
template <class Element>
LLADA_INLINE float softmax_block(const float* scores, int padded, Element* weights, RunningSoftmax& state) {
  auto highest = Vector::set(state.maximum);
  for (int key = 0; key < padded; key += Vector::kWidth) highest = Vector::max(highest, Vector::load(scores + key));
  const float maximum = Vector::reduce_max(highest);
  // No key seen yet: any finite reference makes every weight exactly zero.
  const auto reference = Vector::set(maximum == kMinusInfinity ? 0.0f : maximum);
  float factor[Vector::kWidth];
  Vector::store(factor, Vector::exp2(Vector::subtract(Vector::set(state.maximum), reference)));
  auto even = Vector::set(0.0f), odd = even;
  for (int key = 0; key < padded; key += kPairWidth) {
    const auto left = Vector::exp2(Vector::subtract(Vector::load(scores + key), reference));
    const auto right = Vector::exp2(Vector::subtract(Vector::load(scores + key + Vector::kWidth), reference));
    even = Vector::add(even, left);
    odd = Vector::add(odd, right);
    Vector::store_elements(weights + key, left);
    Vector::store_elements(weights + key + Vector::kWidth, right);
  }
  state.sum = state.sum * factor[0] + Vector::reduce_add(Vector::add(even, odd));
  state.maximum = maximum;
  return factor[0];
}

template <class Element, int Rows>
void add_values(const AttentionTileArgs& args, std::int64_t first, int padded, const float (&factor)[Rows]) {
  constexpr int kWeightStride = kAttentionKeyBlock / kLaneValues<Element>;
  const int sums_stride = args.depth_panels * kAttentionColumns;
  for (int d = 0; d < args.depth; d += kPairWidth) {
    const std::uint32_t* panel =
        args.values + d % kAttentionColumns +
        (d / kAttentionColumns * args.key_lanes + first / kLaneValues<Element>)*kAttentionColumns;
    Vector::Float sum[Rows][2];
    product<Element, Rows>(args.weights, kWeightStride, panel, padded / kLaneValues<Element>, sum);
    for (int m = 0; m < Rows; ++m) {
      float* out = args.sums + m * sums_stride + d;
      const auto old = Vector::set(factor[m]);
      Vector::store(out, Vector::multiply_add(Vector::load(out), old, sum[m][0]));
      Vector::store(out + Vector::kWidth, Vector::multiply_add(Vector::load(out + Vector::kWidth), old, sum[m][1]));
    }
  }
}

template <class Element>
void write_row(const AttentionTileArgs& args, int m, const RunningSoftmax& state) {
  auto* out = static_cast<Element*>(args.out) + m * args.out_stride;
  const float* sums = args.sums + m * args.depth_panels * kAttentionColumns;
  const float inverse = state.sum == 0.0f ? 0.0f : 1.0f / state.sum;
  for (int d = 0; d < args.depth; ++d) out[d] = from_float<Element>(sums[d] * inverse);
}

// Whether the user's mask lets any row of the tile see any of `count` keys.
inline bool any_key(const AttentionTileArgs& args, std::int64_t first, int count) {
  for (int m = 0; m < args.num_rows; ++m) {
    const std::uint8_t* mask = args.mask + m * args.mask_row_stride + first * args.mask_key_stride;
    for (int key = 0; key < count; ++key) {
      if (mask[key * args.mask_key_stride] != 0) return true;
    }
  }
  return false;
}

template <class Element, int Rows>
void attend(const AttentionTileArgs& args) {
  constexpr int kWeightStride = kAttentionKeyBlock / kLaneValues<Element>;
  load_query<Element, Rows>(args);
  std::memset(args.sums, 0, static_cast<std::size_t>(Rows) * args.depth_panels * kAttentionColumns * 4);
  RunningSoftmax state[Rows];
  std::int64_t longest = 0;
  for (int m = 0; m < args.num_rows; ++m) longest = args.row_keys[m] > longest ? args.row_keys[m] : longest;

  for (std::int64_t first = 0; first < longest; first += kAttentionKeyBlock) {
    const std::int64_t left = longest - first;
    const int count = left < kAttentionKeyBlock ? static_cast<int>(left) : kAttentionKeyBlock;
    const int padded = (count + kPairWidth - 1) / kPairWidth * kPairWidth;
    if (args.mask != nullptr && !any_key(args, first, count)) continue;
    score_keys<Element, Rows>(args, first, padded);
    float factor[Rows];
    for (int m = 0; m < Rows; ++m) {
      float* scores = args.scores + m * kAttentionKeyBlock;
      if (m < args.num_rows) mask_scores(args, m, first, padded, scores);
      factor[m] = softmax_block(scores, padded, reinterpret_cast<Element*>(args.weights + m * kWeightStride), state[m]);
    }
    add_values<Element, Rows>(args, first, padded, factor);
  }
  for (int m = 0; m < args.num_rows; ++m) write_row<Element>(args, m, state[m]);
}

// Rows come in fours: the missing ones are zero queries whose result nobody reads.
template <class Element>
void attend_rows(const AttentionTileArgs& args) {
  if constexpr (Vector::kTileRows == 12) {
    if (args.num_rows > 8) return attend<Element, 12>(args);
    if (args.num_rows > 4) return attend<Element, 8>(args);
  }
  attend<Element, 4>(args);
}

AttentionKernel kernel_for(bool bf16) { return {bf16 ? attend_rows<bfloat16> : attend_rows<float>, Vector::kTileRows}; }

}  // namespace
}  // namespace llada

// The body of the tile, compiled once per instruction set: include exactly one cpu/vector_*.h and one
// attention_product_*.h before it.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "attention/attention_fold_impl.h"
#include "attention/attention_mask_impl.h"
#include "attention/attention_tile.h"
#include "common/bfloat16.h"

namespace llada {
namespace {

constexpr int kMaxDepth = 256;
constexpr int kPairWidth = 2 * Vector::kWidth;  // columns of a panel taken at once

template <class Element>
constexpr int kLaneValues = 4 / static_cast<int>(sizeof(Element));
template <class Element>
constexpr int kBlockLanes = kAttentionBlock / kLaneValues<Element>;

template <int Rows>
LLADA_INLINE void add_scores(const float* scores, Vector::Float (&sum)[Rows][2]) {
#pragma GCC unroll 12
  for (int m = 0; m < Rows; ++m, scores += kAttentionBlock) {
    sum[m][0] = Vector::add(Vector::load(scores), sum[m][0]);
    sum[m][1] = Vector::add(Vector::load(scores + Vector::kWidth), sum[m][1]);
  }
}

template <int Rows>
LLADA_INLINE void store_scores(float* scores, const Vector::Float (&sum)[Rows][2]) {
#pragma GCC unroll 12
  for (int m = 0; m < Rows; ++m, scores += kAttentionBlock) {
    Vector::store(scores, sum[m][0]);
    Vector::store(scores + Vector::kWidth, sum[m][1]);
  }
}

// Depths beyond 64 lanes are summed in parts. With a large scale it is the error of one long fp32 sum that decides, and
// library GEMMs of few rows sum in shorter ones.
constexpr int kChainLanes = 64;

template <class Element, int Rows>
__attribute__((noinline)) void score_keys(const AttentionTileArgs& args) {
  const int depth_lanes = args.depth_lanes, panel_size = depth_lanes * kAttentionColumns;
  const ProductRows<Element, kQueryStride, Rows> queries(args.queries, depth_lanes);
  for (int key = args.first_key; key < args.end_key; key += kPairWidth) {
    const int column = key - args.first_key;
    const std::uint32_t* panel = args.keys + column / kAttentionColumns * panel_size + column % kAttentionColumns;
    float* scores = args.scores + key;
    for (int lane = 0; lane < depth_lanes; lane += kChainLanes) {
      const int end = lane + kChainLanes < depth_lanes ? lane + kChainLanes : depth_lanes;
      Vector::Float sum[Rows][2];
      for (int m = 0; m < Rows; ++m) sum[m][0] = sum[m][1] = Vector::set(0.0f);
      queries.multiply(panel, lane, end, sum);
      if (lane > 0) add_scores<Rows>(scores, sum);
      store_scores<Rows>(scores, sum);
    }
  }
}

// Minus infinity for the keys that row m does not see.
LLADA_INLINE void mask_scores(const AttentionTileArgs& args, int m, float* scores) {
  if (args.mask != nullptr) {
    const std::uint32_t* mask = args.mask + m * kAttentionMaskWords;
    for (int key = args.first_key; key < args.end_key; key += Vector::kWidth) {
      Vector::store(scores + key, Vector::keep(mask[key / 32] >> key % 32, Vector::load(scores + key)));
    }
  }
  for (int key = args.row_keys[m]; key < args.end_key; ++key) scores[key] = kMinusInfinity;
}

// An fp32 weight takes the place of its score.
template <class Element>
LLADA_INLINE std::uint32_t* weights_of(const AttentionTileArgs& args) {
  return sizeof(Element) == 4 ? reinterpret_cast<std::uint32_t*>(args.scores) : args.weights;
}

// Scores to weights, row by row; each row's maximum and sum.
template <class Element, int Rows>
LLADA_INLINE void softmax(const AttentionTileArgs& args, Element* weights, float (&maximum)[16], float (&sum)[16]) {
  for (int m = 0; m < Rows; ++m) {
    float* scores = args.scores + m * kAttentionBlock;
    if (m < args.num_rows) mask_scores(args, m, scores);
    auto even = Vector::set(kMinusInfinity), odd = even;
    for (int key = args.first_key; key < args.end_key; key += kPairWidth) {
      even = Vector::max(even, Vector::load(scores + key));
      odd = Vector::max(odd, Vector::load(scores + key + Vector::kWidth));
    }
    maximum[m] = Vector::reduce_max(Vector::max(even, odd)) * args.scale_log2;
  }
  for (int m = 0; m < Rows; ++m) {
    const float* scores = args.scores + m * kAttentionBlock;
    const auto scale = Vector::set(args.scale_log2), offset = Vector::set(-reference_of(maximum[m]));
    auto even = Vector::set(0.0f), odd = even;
    for (int key = args.first_key; key < args.end_key; key += kPairWidth) {
      const auto left = Vector::exp2<Element>(Vector::multiply_add(Vector::load(scores + key), scale, offset));
      const auto right =
          Vector::exp2<Element>(Vector::multiply_add(Vector::load(scores + key + Vector::kWidth), scale, offset));
      even = Vector::add(even, left);
      odd = Vector::add(odd, right);
      Vector::store_elements(weights + m * kAttentionBlock + key, left, right);
    }
    sum[m] = Vector::reduce_add(Vector::add(even, odd));
  }
}

template <class Element, int Rows>
__attribute__((noinline)) void add_values(const AttentionTileArgs& args, const Fold& factors) {
  const int lanes = (args.end_key - args.first_key) / kLaneValues<Element>, num_rows = args.num_rows;
  const ProductRows<Element, kBlockLanes<Element>, Rows> weights(
      weights_of<Element>(args) + args.first_key / kLaneValues<Element>, lanes);
  const std::int64_t stride = args.state_stride;
  const AttentionSums sums = args.sums;
  for (int column = 0; column < args.depth_panels * kAttentionColumns; column += kPairWidth) {
    const std::uint32_t* panel = args.values + column / kAttentionColumns * args.value_lanes * kAttentionColumns;
    float* state = args.states + column;
    Vector::Float sum[Rows][2];
    for (int m = 0; m < Rows; ++m) {
      const bool more = sums == AttentionSums::kAdd && m < num_rows;
      sum[m][0] = more ? Vector::load(state + m * stride) : Vector::set(0.0f);
      sum[m][1] = more ? Vector::load(state + m * stride + Vector::kWidth) : Vector::set(0.0f);
    }
    weights.multiply(panel + column % kAttentionColumns, 0, lanes, sum);
    if (sums == AttentionSums::kFold) fold_sums<Rows>(state, stride, num_rows, factors, sum);
#pragma GCC unroll 12
    for (int m = 0; m < Rows; ++m, state += stride) {
      if (m >= num_rows) break;
      Vector::store(state, sum[m][0]);
      Vector::store(state + Vector::kWidth, sum[m][1]);
    }
  }
}

// One lane of values for kWidth components from `column` on.
template <class Element>
LLADA_INLINE Vector::Lanes value_lane(const char* const (&keys)[2], int column) {
  if constexpr (sizeof(Element) == 4) {
    return Vector::load_lanes(reinterpret_cast<const std::uint32_t*>(keys[0]) + column);
  } else {
    return Vector::interleave(reinterpret_cast<const std::uint16_t*>(keys[0]) + column,
                              reinterpret_cast<const std::uint16_t*>(keys[1]) + column);
  }
}

// The sums of kVectors vectors of components from `column` on.
template <class Element, int Rows, int kVectors>
LLADA_INLINE void add_value_columns(const AttentionTileArgs& args, const AttentionKeyRows& rows, int column) {
  constexpr int kKeys = kLaneValues<Element>;
  static constexpr char kZeros[kMaxDepth * sizeof(Element)] = {};
  const std::uint32_t* weights = weights_of<Element>(args) + args.first_key / kKeys;
  const int count = args.end_key - args.first_key, num_rows = args.num_rows;
  const std::int64_t stride = args.state_stride;
  const bool more = args.sums == AttentionSums::kAdd;
  float* state = args.states + column;
  Vector::Float sum[Rows][kVectors];
  for (int m = 0; m < Rows; ++m) {
    for (int v = 0; v < kVectors; ++v) {
      sum[m][v] = more && m < num_rows ? Vector::load(state + m * stride + v * Vector::kWidth) : Vector::set(0.0f);
    }
  }
  for (int key = 0; key < count; key += kKeys) {
    const char* keys[2] = {rows.source + key * rows.row_bytes, rows.source + (key + kKeys - 1) * rows.row_bytes};
    if (key + kKeys > rows.count) {
      if (key >= rows.count) keys[0] = kZeros;
      keys[1] = kZeros;
    }
    Vector::Lanes values[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) values[v] = value_lane<Element>(keys, column + v * Vector::kWidth);
#pragma GCC unroll 12
    for (int m = 0; m < Rows; ++m) {
      const auto weight = Vector::broadcast_lane(weights + m * kBlockLanes<Element> + key / kKeys);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[m][v] = Vector::dot<Element>(sum[m][v], values[v], weight);
    }
  }
#pragma GCC unroll 12
  for (int m = 0; m < Rows; ++m, state += stride) {
    if (m >= num_rows) break;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) Vector::store(state + v * Vector::kWidth, sum[m][v]);
  }
}

// As many vectors of components at once as there are registers for their sums.
template <class Element, int Rows>
__attribute__((noinline)) void add_value_rows(const AttentionTileArgs& args, const AttentionKeyRows& rows) {
  constexpr int kVectors = Rows <= Vector::kTileRows / 6 ? 8 : Rows <= Vector::kTileRows / 3 ? 4 : 2;
  const int columns = args.depth_panels * kAttentionColumns;
  int column = 0;
  for (; column + kVectors * Vector::kWidth <= columns; column += kVectors * Vector::kWidth) {
    add_value_columns<Element, Rows, kVectors>(args, rows, column);
  }
  for (; column < columns; column += kPairWidth) add_value_columns<Element, Rows, 2>(args, rows, column);
}

// Weights, and the rows' maxima and sums into their states.
template <class Element, int Rows>
LLADA_INLINE void weigh(const AttentionTileArgs& args, Fold& factors) {
  alignas(64) float block_maximum[16] = {}, block_sum[16] = {}, maximum[16] = {}, sum[16] = {};
  softmax<Element, Rows>(args, reinterpret_cast<Element*>(weights_of<Element>(args)), block_maximum, block_sum);
  float* extra = args.states + args.depth_panels * kAttentionColumns;
  const bool fold = args.sums == AttentionSums::kFold;
  if (fold) {
    for (int m = 0; m < args.num_rows; ++m) {
      maximum[m] = extra[m * args.state_stride];
      sum[m] = extra[m * args.state_stride + 1];
    }
    fold_rows(maximum, sum, block_maximum, block_sum, factors);
  }
  for (int m = 0; m < args.num_rows; ++m) {
    extra[m * args.state_stride] = fold ? maximum[m] : block_maximum[m];
    extra[m * args.state_stride + 1] = fold ? sum[m] : block_sum[m];
  }
}

// Rows come in fours, or one or two: the missing ones repeat the queries that lie there, and nobody reads their result.
template <class Function>
LLADA_INLINE void with_rows(int num_rows, const Function& function) {
  if constexpr (Vector::kTileRows == 12) {
    if (num_rows > 8) return function(std::integral_constant<int, 12>{});
    if (num_rows > 4) return function(std::integral_constant<int, 8>{});
  }
  if (num_rows > 2) return function(std::integral_constant<int, 4>{});
  if (num_rows > 1) return function(std::integral_constant<int, 2>{});
  function(std::integral_constant<int, 1>{});
}

template <class Element>
void run_tile(const AttentionTileArgs& args) {
  with_rows(args.num_rows, [&](auto rows) LLADA_INLINE_LAMBDA {
    Fold factors;
    score_keys<Element, rows()>(args);
    weigh<Element, rows()>(args, factors);
    add_values<Element, rows()>(args, factors);
  });
}

template <class Element>
void run_score(const AttentionTileArgs& args) {
  with_rows(args.num_rows, [&](auto rows) LLADA_INLINE_LAMBDA { score_keys<Element, rows()>(args); });
}

template <class Element>
void run_weigh(const AttentionTileArgs& args) {
  Fold unused;
  with_rows(args.num_rows, [&](auto rows) LLADA_INLINE_LAMBDA { weigh<Element, rows()>(args, unused); });
}

template <class Element>
void run_add_values(const AttentionTileArgs& args) {
  const Fold unused{};
  with_rows(args.num_rows, [&](auto rows) LLADA_INLINE_LAMBDA { add_values<Element, rows()>(args, unused); });
}

template <class Element>
void run_add_value_rows(const AttentionTileArgs& args, const AttentionKeyRows& rows) {
  with_rows(args.num_rows, [&](auto num_rows) LLADA_INLINE_LAMBDA { add_value_rows<Element, num_rows()>(args, rows); });
}

// One lane of values: the components of one fp32 key, or those of two bf16 keys interleaved.
template <class Element>
void pack_values(const AttentionValues& args) {
  using Word = std::conditional_t<sizeof(Element) == 4, std::uint32_t, std::uint16_t>;
  static constexpr Word kZeros[256] = {};
  const int panel_size = args.value_lanes * kAttentionColumns;
  const int lanes = args.padded / kLaneValues<Element>;
  const int padded = (args.depth + kAttentionColumns - 1) / kAttentionColumns * kAttentionColumns;
  for (int lane = 0; lane < lanes; ++lane) {
    const Word* rows[kLaneValues<Element>];
    for (int i = 0; i < kLaneValues<Element>; ++i) {
      const int key = lane * kLaneValues<Element> + i;
      rows[i] = key < args.count ? static_cast<const Word*>(args.source) + key * args.row_stride : kZeros;
    }
    std::uint32_t* target = args.values + lane * kAttentionColumns;
    int column = 0;
    for (; column + Vector::kWidth <= args.depth; column += Vector::kWidth) {
      std::uint32_t* out = target + column / kAttentionColumns * panel_size + column % kAttentionColumns;
      if constexpr (sizeof(Element) == 4) {
        Vector::store_lanes(out, Vector::load_lanes(rows[0] + column));
      } else {
        Vector::store_lanes(out, Vector::interleave(rows[0] + column, rows[1] + column));
      }
    }
    for (; column < padded; ++column) {
      std::uint32_t value = 0;
      for (int i = 0; i < kLaneValues<Element> && column < args.depth; ++i) {
        value |= static_cast<std::uint32_t>(rows[i][column]) << 16 * i;
      }
      target[column / kAttentionColumns * panel_size + column % kAttentionColumns] = value;
    }
  }
}

template <class Element>
void write(const float* state, int columns, int depth, void* out) {
  auto* target = static_cast<Element*>(out);
  const float total = state[columns + 1];
  if (total == 0.0f) return static_cast<void>(std::memset(out, 0, depth * sizeof(Element)));
  const float inverse = 1.0f / total;
  int c = 0;
  for (; c + Vector::kWidth <= depth; c += Vector::kWidth) {
    Vector::store_elements(target + c, Vector::multiply(Vector::load(state + c), Vector::set(inverse)));
  }
  for (; c < depth; ++c) target[c] = from_float<Element>(state[c] * inverse);
}

template <class Element>
AttentionKernel kernel_of() {
  return {run_tile<Element>,
          run_score<Element>,
          run_weigh<Element>,
          run_add_values<Element>,
          nullptr,
          run_add_value_rows<Element>,
          Vector::kTileRows,
          pack_values<Element>,
          fold,
          write<Element>,
          read_mask};
}

}  // namespace
}  // namespace llada

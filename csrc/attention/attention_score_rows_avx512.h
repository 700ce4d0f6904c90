// Scores of keys as they lie: part of the tile's body on AVX-512, after the headers that attention_tile_impl.h asks
// for.
#pragma once

#include "attention/attention_tile_impl.h"
#include "cpu/transpose_avx512.h"

namespace llada {
namespace {

// 16 keys side by side, transposed in registers as they are read: the lanes are summed in the order of score_keys.
template <class Element, int Rows>
__attribute__((noinline)) void score_rows(const AttentionTileArgs& args, const AttentionKeyRows& rows) {
  for (int key = args.first_key; key < args.end_key; key += Vector::kWidth) {
    const int at = key - args.first_key;
    const char* row[Vector::kWidth];
    for (int r = 0; r < Vector::kWidth; ++r) {
      row[r] = rows.source + (at + r < rows.count ? at + r : 0) * rows.row_bytes;  // the scores of others are masked
    }
    float* scores = args.scores + key;
    for (int lane = 0; lane < args.depth_lanes; lane += kChainLanes) {
      const int end = lane + kChainLanes < args.depth_lanes ? lane + kChainLanes : args.depth_lanes;
      Vector::Float sum[Rows];
      for (int m = 0; m < Rows; ++m) sum[m] = Vector::set(0.0f);
      for (int first = lane; first < end; first += Vector::kWidth) {
        __m512i block[Vector::kWidth];
        transpose_block<Vector::kWidth>(row, first * 4, block);
#pragma GCC unroll 16
        for (int i = 0; i < Vector::kWidth; ++i) {
#pragma GCC unroll 12
          for (int m = 0; m < Rows; ++m) {
            const auto value = Vector::broadcast_lane(args.queries + m * kQueryStride + first + i);
            sum[m] = Vector::dot<Element>(sum[m], {block[i]}, value);
          }
        }
      }
#pragma GCC unroll 12
      for (int m = 0; m < Rows; ++m) {
        float* target = scores + m * kAttentionBlock;
        Vector::store(target, lane > 0 ? Vector::add(Vector::load(target), sum[m]) : sum[m]);
      }
    }
  }
}

template <class Element>
void run_score_rows(const AttentionTileArgs& args, const AttentionKeyRows& rows) {
  with_rows(args.num_rows, [&](auto num_rows) LLADA_INLINE_LAMBDA { score_rows<Element, num_rows()>(args, rows); });
}

}  // namespace
}  // namespace llada

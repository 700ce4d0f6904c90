// What the parts of product_sm90.h share: the shapes of tiles, the ring of stages between producers and consumers, and
// the order of the consumers.
#pragma once

#include <cstdint>

#include "cuda/ptx_sm90.h"
#include "cuda/reduce.h"
#include "grouped_gemm/product_select.h"
#include "grouped_gemm/product_tiles.h"

namespace llada::cuda {

inline constexpr int kGroupThreads = 128, kGroupWarps = kGroupThreads / kWarpLanes;
inline constexpr int kSlotRows = 64;  // of weight, wgmma's M
inline constexpr int kSlotBytes = kSlotRows * kDepthBytes;

template <int kGroupsOfBlock, int kRowsOfTile, int kStagesOfBlock, int kBoxesOfTile = 2, int kBoxRowsOfTile = kSlotRows,
          int kRowTilesOfStage = 1>
struct StreamShape {
  static constexpr int kGroups = kGroupsOfBlock;  // of consumers; with more than one, they take turns
  static constexpr int kRows = kRowsOfTile, kStages = kStagesOfBlock;
  static constexpr int kBoxes = kBoxesOfTile, kBoxRows = kBoxRowsOfTile;
  static constexpr int kWeightRows = kBoxes * kBoxRows;
  static constexpr int kThreads = (1 + kGroups) * kGroupThreads;
  static constexpr int kWeightBytes = kBoxes * kSlotBytes;
  static constexpr int kRowTiles = kRowTilesOfStage;  // 2: elements of rows are twice as wide as the weight's
  static constexpr int kStageBytes = kWeightBytes + kRowTiles * kRows * kDepthBytes;
  static constexpr int kLag = kStages >= 8 ? 3 : 2;  // consumers keep one stage besides the one they wait for
  static_assert(kLag <= kStages - 2);
};
using StreamFewRows = StreamShape<1, 64, 8>;         // 8 x 24 KB
using StreamManyRows = StreamShape<2, 192, 5>;       // 5 x 40 KB
using StreamNarrow = StreamShape<1, 64, 12, 1, 16>;  // 12 x 16 KB; the slot's other rows give sums that nobody reads
using StreamInt8 = StreamShape<1, 64, 6, 2, kSlotRows, 2>;  // 6 x 32 KB
inline constexpr ProductTiles kTilesOfSm90 = {StreamFewRows::kRows, StreamFewRows::kWeightRows, StreamManyRows::kRows,
                                              StreamManyRows::kWeightRows, StreamNarrow::kRows};

// Where a thread stands in the ring of stages, over two rounds of it: one register.
template <int kStages>
class Ring {
 public:
  __device__ __forceinline__ int stage() const { return position_ < kStages ? position_ : position_ - kStages; }
  __device__ __forceinline__ int previous_stage() const { return stage() > 0 ? stage() - 1 : kStages - 1; }
  __device__ __forceinline__ unsigned parity() const { return position_ >= kStages; }

  __device__ __forceinline__ void advance() { position_ = position_ + 1 < 2 * kStages ? position_ + 1 : 0; }
  __device__ __forceinline__ void advance(int steps) { position_ = (position_ + steps) % (2 * kStages); }

 private:
  int position_ = 0;
};

struct Stages {
  char* memory;
  std::uint64_t *full, *empty, *turns;
};

template <class Shape, int kTokens>
using StreamSums = float[Shape::kBoxes][kTokens / 2];

__device__ __forceinline__ void free_stage(const Stages& stages, int stage) {
  if (threadIdx.x % kWarpLanes == 0) ptx::mbarrier_arrive(stages.empty + stage);
}

// Consumers multiply in turn, a tile in each: when the one before has issued all its products. A stage's parity tells
// two rounds apart and no more: only in its turn does a consumer know which of them it waits for.
template <int kGroups>
__device__ __forceinline__ void take_turn(const Stages& stages, unsigned turn) {
  if constexpr (kGroups > 1) {
    if (turn > 0) ptx::mbarrier_wait(stages.turns + turn % kGroups, (turn - 1) / kGroups & 1);
  }
}

template <int kGroups>
__device__ __forceinline__ void pass_turn(const Stages& stages, unsigned turn) {
  if constexpr (kGroups > 1) {
    if (threadIdx.x % kWarpLanes == 0) ptx::mbarrier_arrive(stages.turns + (turn + 1) % kGroups);
  }
}

}  // namespace llada::cuda

// What the parts of product_sm90.h share: the shapes of tiles, and the ring of stages between producers and consumers.
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

template <int kGroupsOfTile, int kRowsOfTile, int kStagesOfTile, int kBoxesOfGroup = 2, int kBoxRowsOfTile = kSlotRows,
          int kRowTilesOfStage = 1>
struct StreamShape {
  static constexpr int kGroups = kGroupsOfTile, kRows = kRowsOfTile, kStages = kStagesOfTile;
  static constexpr int kBoxes = kBoxesOfGroup, kBoxRows = kBoxRowsOfTile;
  static constexpr int kWeightRows = kGroups * kBoxes * kBoxRows;
  static constexpr int kThreads = (1 + kGroups) * kGroupThreads;
  static constexpr int kWeightBytes = kGroups * kBoxes * kSlotBytes;
  static constexpr int kRowTiles = kRowTilesOfStage;  // 2: elements of rows are twice as wide as the weight's
  static constexpr int kStageBytes = kWeightBytes + kRowTiles * kRows * kDepthBytes;
  static constexpr int kLag = kStages >= 8 ? 3 : 2;  // consumers keep one stage besides the one they wait for
  static_assert(kLag <= kStages - 2);
};
using StreamFewRows = StreamShape<1, 64, 8>;         // 8 x 24 KB
using StreamManyRows = StreamShape<2, 128, 4>;       // 4 x 48 KB
using StreamNarrow = StreamShape<1, 64, 12, 1, 16>;  // 12 x 16 KB; the slot's other rows give sums that nobody reads
using StreamInt8 = StreamShape<1, 64, 6, 2, kSlotRows, 2>;  // 6 x 32 KB
inline constexpr ProductTiles kTilesOfSm90 = {StreamFewRows::kRows, StreamFewRows::kWeightRows, StreamManyRows::kRows,
                                              StreamManyRows::kWeightRows, StreamNarrow::kRows};

// Where a thread stands in the ring of stages, and the parity of its round.
template <int kStages>
struct Ring {
  int stage = 0;
  unsigned parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

struct Stages {
  char* memory;
  std::uint64_t *full, *empty;
};

template <class Shape, int kTokens>
using StreamSums = float[Shape::kBoxes][kTokens / 2];

__device__ __forceinline__ void free_stage(const Stages& stages, int stage) {
  if (threadIdx.x % kWarpLanes == 0) ptx::mbarrier_arrive(stages.empty + stage);
}

}  // namespace llada::cuda

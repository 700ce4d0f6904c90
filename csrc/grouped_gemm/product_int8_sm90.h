// Weights of one byte (product_int8_sm80.h) in product_sm90.h: they come by TMA, each warp expands its own 16 rows, and
// they are wgmma's M from registers.
#pragma once

#include <cstdint>

#include "cuda/ptx_sm90.h"
#include "grouped_gemm/product_int8_sm80.h"
#include "grouped_gemm/product_stages_sm90.h"

namespace llada::cuda {

// As sum_stages. Two sets of registers take turns: while one is multiplied, the other is filled with the next 32 of
// depth.
template <class Element, class Shape, int kTokens>
__device__ __forceinline__ void sum_stages_int8(StreamSums<Shape, kTokens>& sums, const Stages& stages,
                                                Ring<Shape::kStages>& ring, unsigned turn, int steps) {
  constexpr int kStepBytes = 16 * sizeof(Element), kSteps = kDepthBytes / kStepBytes;  // wgmma's k, in a row tile
  const int lane = threadIdx.x % kWarpLanes, warp_row = threadIdx.x % kGroupThreads / kWarpLanes * 16;
  std::uint32_t left[2][Shape::kBoxes][2][4];
  take_turn<Shape::kGroups>(stages, turn);
  for (int step = 0; step < steps; ++step) {
    ptx::mbarrier_wait(stages.full + ring.stage(), ring.parity());
    const char* stage = stages.memory + ring.stage() * Shape::kStageBytes;
    const std::uint32_t rows = ptx::shared_address(stage) + Shape::kWeightBytes;
#pragma unroll
    for (int chunk = 0; chunk < kChunks; chunk += 2) {  // each 16 of depth
      auto& set = left[chunk / 2 % 2];
      ptx::wgmma_wait_group<1>();  // this set is free; from the second chunks on, so is the stage before
      if (chunk == 2 && step > 0) free_stage(stages, ring.previous_stage());
#pragma unroll
      for (int box = 0; box < Shape::kBoxes; ++box) {
        std::uint32_t bytes[4];
        ptx::ldmatrix(bytes, stage + box * kSlotBytes + chunk_offset(warp_row + lane % 16, chunk + lane / 16));
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          expand_bytes<Element>(bytes[half * 2], set[box][half][0], set[box][half][2]);
          expand_bytes<Element>(bytes[half * 2 + 1], set[box][half][1], set[box][half][3]);
        }
      }
      ptx::wgmma_fence();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int k = chunk + half;
        const std::uint32_t row_tile = rows + k / kSteps * Shape::kRows * kDepthBytes + k % kSteps * kStepBytes;
#pragma unroll
        for (int box = 0; box < Shape::kBoxes; ++box) {
          ptx::wgmma<Element, kTokens>(sums[box], set[box][half], ptx::tile_descriptor(row_tile), true);
        }
      }
      ptx::wgmma_commit_group();
    }
    __syncwarp();  // each lane has read the stage for itself, the first will free it for all
    ring.advance();
  }
  pass_turn<Shape::kGroups>(stages, turn);
  ptx::wgmma_wait_group<0>();
  if (steps > 0) free_stage(stages, ring.previous_stage());
}

}  // namespace llada::cuda

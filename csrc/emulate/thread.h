// One CUDA thread and one block of them, as the emulator keeps them. Blocks are taken from a pool: `resident_blocks` of
// them live at a time.
#pragma once

#include <memory>
#include <vector>

#include "emulate/fibre.h"
#include "emulate/types.h"
#include "emulate/where.h"

namespace llada::emulate {

inline constexpr unsigned kWarpSize = 32;
inline constexpr unsigned kMaxWarps = 32;

struct Block;

struct Thread {
  Fibre fibre;
  uint3 index{};
  unsigned linear = 0, lane = 0, warp = 0;
  Block* block = nullptr;
  Thread* next_waiting = nullptr;  // in the list of whatever it waits for
  Where where;
  bool exited = false;
};

// Lanes of one warp that meet in one operation. A warp may hold several at once, over disjoint masks.
struct Rendezvous {
  std::uint32_t mask = 0, arrived = 0;  // bit per lane
  void (*operation)(std::uint32_t mask, void* const* operands) = nullptr;
  Where where;
  void* operands[kWarpSize];
  Thread* threads[kWarpSize];
};

struct Warp {
  std::uint32_t open = 0;  // bit i: lanes wait in rendezvous[i]
  Rendezvous rendezvous[kWarpSize];
  char order = 0;  // a name for release and acquire
};

struct Barrier {
  unsigned arrived = 0, expected = 0, phase = 0;
  int votes = 0, result[2] = {0, 0};
  Thread* waiting = nullptr;
  unsigned lanes[kMaxWarps] = {}, line[kMaxWarps] = {};  // of each warp: lanes that have arrived, and from where
  char order[2] = {0, 0};
};

// An array of fixed size in shared memory; exactly as large as declared, so that ASan sees its ends.
struct StaticArray {
  const void* key;
  std::size_t bytes;
  std::unique_ptr<char, void (*)(void*)> memory;
};

inline constexpr unsigned kBarriers = 16;

struct Block {
  uint3 index{};
  dim3 size, grid;
  char* shared = nullptr;
  std::size_t shared_bytes = 0;
  std::vector<StaticArray> static_arrays;
  std::vector<Thread*> threads;
  std::vector<Warp> warps;
  Barrier barriers[kBarriers];
  unsigned live = 0, exited = 0;
  bool finished = false;
  char order = 0;
};

extern Thread* current;

}  // namespace llada::emulate

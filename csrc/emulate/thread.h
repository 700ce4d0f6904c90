// One CUDA thread and one block of them, as the emulator keeps them. Blocks are taken from a pool: `resident_blocks` of
// them live at a time.
#pragma once

#include <memory>
#include <vector>

#include "emulate/async_copy.h"
#include "emulate/fibre.h"
#include "emulate/types.h"
#include "emulate/where.h"

namespace llada::emulate {

inline constexpr unsigned kWarpSize = 32;
inline constexpr unsigned kMaxWarps = 32;

struct Block;
struct WgmmaQueue;

inline constexpr unsigned kMaxPendingCopies = 256;

struct PendingCopy {
  AsyncCopy copy;
  unsigned group, issued;
};

// Asynchronous copies that a thread has issued and that have not happened.
struct PendingCopies {
  PendingCopy entries[kMaxPendingCopies];
  unsigned head = 0, count = 0, group = 0, issued = 0;
  unsigned handed_over = 0;  // those issued before have an mbarrier that waits for them
  char order = 0;            // a name for release and acquire

  void reset() { head = count = group = issued = handed_over = 0; }
};

struct Thread {
  Fibre fibre;
  uint3 index{};
  unsigned linear = 0, lane = 0, warp = 0;
  Block* block = nullptr;
  Thread* next_waiting = nullptr;  // in the list of whatever it waits for
  const void* mbarrier = nullptr;  // the one it waits for
  Where where;
  bool exited = false;
  PendingCopies copies;
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
  std::unique_ptr<WgmmaQueue, void (*)(WgmmaQueue*)> wgmma{nullptr, nullptr};  // made at its first use
  char order = 0;                                                              // a name for release and acquire
};

struct Barrier {
  unsigned arrived = 0, expected = 0, phase = 0;
  int votes = 0, result[2] = {0, 0};
  Thread* waiting = nullptr;
  unsigned lanes[kMaxWarps] = {}, line[kMaxWarps] = {};  // of each warp: lanes that have arrived, and from where
  char order[2] = {0, 0};
};

using SharedMemory = std::unique_ptr<char, void (*)(void*)>;

// An array of fixed size in shared memory.
struct StaticArray {
  const void* key;
  std::size_t bytes;
  SharedMemory memory;
};

inline constexpr unsigned kBarriers = 16;

struct Block {
  uint3 index{};
  dim3 size, grid;
  char* shared = nullptr;  // dynamic
  SharedMemory shared_memory{nullptr, nullptr};
  std::size_t shared_bytes = 0;
  std::vector<StaticArray> static_arrays;
  std::vector<Thread*> threads;
  std::vector<Warp> warps;
  Barrier barriers[kBarriers];
  Thread* waiting_for_mbarrier = nullptr;
  unsigned copies_in_flight = 0;  // of the copy engine
  unsigned live = 0, exited = 0;
  bool finished = false;
  char order = 0;
};

extern Thread* current;

}  // namespace llada::emulate

// wgmma.mma_async: each warp of a warpgroup multiplies its 16 of the 64 rows, by a coin when the instruction is issued
// or only when it is waited for.
#pragma once

#include <cstdint>

#include "emulate/matrix.h"
#include "emulate/where.h"

namespace llada::emulate {

struct Wgmma {
  Float16 type;
  int columns;  // N
  bool a_transposed, b_transposed, accumulate;
  const std::uint32_t* a_registers;  // nullptr: a comes from shared memory
  std::uint64_t a, b;                // matrix descriptors
  float* d;
};

void wgmma_issue(const Wgmma& operation, const Where& where);
void wgmma_commit(const Where& where);
void wgmma_wait(unsigned groups, const Where& where);

// Of the running thread's warp.
bool wgmma_in_flight();

// memory_access.cpp: one access to shared memory, under the sanitizers.
void read_chunk(const void* shared, std::uint16_t (&elements)[8]);

}  // namespace llada::emulate

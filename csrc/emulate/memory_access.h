// The memory accesses of asynchronous copies. Inlined into kernels and into memory_access.cpp, both compiled with the
// sanitizers, so that each access is checked as the kernel's own. The rest of the runtime must not include this.
#pragma once

#include <cstdint>

#include "emulate/async_copy.h"
#include "emulate/types.h"

namespace llada::emulate {

// Copies the first `valid` bytes and writes zeros for the others; with none valid the source is not read.
__forceinline__ void move_bytes(const AsyncCopy& copy) {
  if (copy.bytes == 16 && copy.valid == 16) {
    *static_cast<uint4*>(copy.to) = *static_cast<const uint4*>(copy.from);
    return;
  }
  auto* to = static_cast<unsigned char*>(copy.to);
  const auto* from = static_cast<const unsigned char*>(copy.from);
  for (unsigned i = 0; i < copy.bytes; ++i) to[i] = i < copy.valid ? from[i] : 0;
}

}  // namespace llada::emulate

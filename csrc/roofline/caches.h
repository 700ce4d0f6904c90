// The sizes of the caches, as the system reports them.
#pragma once

#include <cstdint>

namespace llada {

struct CacheSizes {
  std::int64_t l1;     // data, of one core, in bytes
  std::int64_t l2;     // of one core
  std::int64_t l3;     // of the cores that share it
  std::int64_t cores;  // that share an L3
};

// From sysfs; where that is silent from sysconf; where both are, 32 KiB, 1 MiB and 32 MiB for all cores.
CacheSizes cache_sizes();

}  // namespace llada

// The instruction sets that a test runs on, with a line that says which it cannot.
#pragma once

#include <algorithm>
#include <cstdio>
#include <vector>

#include "common/isa.h"

namespace llada {

inline std::vector<Isa> tested_isas() {
  const std::vector<Isa> available = available_isas();
  for (const Isa isa : {Isa::kAvx512, Isa::kAvx2}) {
    if (std::find(available.begin(), available.end(), isa) == available.end()) {
      std::printf("%s skipped: this processor lacks it\n", isa_name(isa));
    }
  }
  return available;
}

}  // namespace llada

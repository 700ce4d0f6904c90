// Where a CUDA thread stands when it meets others or waits: in every message of the emulator.
#pragma once

#include <source_location>

namespace llada::emulate {

using Place = std::source_location;

struct Where {
  const char* operation = "start";
  Place place;
};

}  // namespace llada::emulate

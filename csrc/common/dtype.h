// The element types of arrays; without a container, so that CUDA sources can include it.
#pragma once

#include <cstdint>

namespace llada {

enum class DType : std::uint8_t {
  kFloat32,
  kFloat64,
  kBFloat16,
  kFloat16,
  kInt32,
  kInt64,
  kBool,
  kInt8,
  kUInt8,
  kOther
};

}  // namespace llada

// Small kernels into which faults are planted, to see each reported (planted_faults.cpp). Every subject is right with
// kNone.
#pragma once

#include <cstdint>

namespace subjects {

enum class Fault {
  kNone,
  kMissingBarrier,
  kOffByOne,
  kUnwaitedCopy,
  kSwappedFragment,
  kWrongSwizzle,
  kReadPastEnd,
  kWrongBytes,
  kWrongDescriptor,
  kFreedTooEarly,
  kUnwaitedProduct,
  kMissingTurn,
  kWrongStage,
};

// order: the indices of `keys` (each below kKeys), stably sorted by key.
inline constexpr int kKeys = 64;
int sort_by_key(Fault fault, const int* keys, int* order, int count);

// c (rows x columns, float) = a (rows x depth) * b (columns x depth)^T, bfloat16 bits; depth a multiple of 64.
struct Product {
  const std::uint16_t *a, *b;
  float* c;
  int rows, columns, depth;
};
int product_sm80(Fault fault, const Product& product);
int product_sm90(Fault fault, const Product& product);

// Kernels that break a rule of the machine, one per name; the emulator says which.
int broken_rule(const char* name);

}  // namespace subjects

// Logit and token in one number that orders choices: the larger logit is larger, of equal ones the lower token.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace llada {

// 0, which is no token, for minus infinity and NaN. Always inlined: compiled once per instruction set.
LLADA_HOST_DEVICE inline __attribute__((always_inline)) std::uint64_t choice_key(float logit, std::int64_t token) {
  if (!(logit > -INFINITY)) return 0;
  const float number = logit + 0.0f;  // no -0
  std::uint32_t bits;
  memcpy(&bits, &number, sizeof bits);
  const std::uint32_t order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return std::uint64_t{order} << 32 | ~static_cast<std::uint32_t>(token);
}

LLADA_HOST_DEVICE inline float logit_of(std::uint64_t key) {
  if (key == 0) return -INFINITY;
  const auto order = static_cast<std::uint32_t>(key >> 32);
  const std::uint32_t bits = order & 0x80000000u ? order & 0x7fffffffu : ~order;
  float logit;
  memcpy(&logit, &bits, sizeof logit);
  return logit;
}

LLADA_HOST_DEVICE inline std::int32_t token_of(std::uint64_t key) {
  return key == 0 ? -1 : static_cast<std::int32_t>(~static_cast<std::uint32_t>(key));
}

// Of keys whose noised values are equal, the one to choose.
LLADA_HOST_DEVICE inline bool has_lower_token(std::uint64_t key, std::uint64_t other) {
  return static_cast<std::uint32_t>(key) > static_cast<std::uint32_t>(other);
}

}  // namespace llada

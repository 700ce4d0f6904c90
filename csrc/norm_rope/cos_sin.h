// cos and sin of an fp32 angle: reduction to [-pi/4, pi/4] and Taylor sums in double, below one fp32 ulp after
// rounding. Branch-free, so that a loop over it vectorises; the same bits on the CPU and on a GPU.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace llada {

LLADA_HOST_DEVICE inline void cos_sin(float fp32_angle, float& cosine, float& sine) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves the nearest integer in the low bits
  constexpr double kTwoOverPi = 0.63661977236758134308, kHalfPi = 1.57079632679489661923;
  constexpr double kHalfPiTail = 6.123233995736766e-17;
  const double angle = fp32_angle, shifted = angle * kTwoOverPi + kRound, quarter_turns = shifted - kRound;
  const double x = angle - quarter_turns * kHalfPi - quarter_turns * kHalfPiTail, y = x * x;
  const double sine_sum =
      x * (1 + y * (-1.0 / 6 + y * (1.0 / 120 + y * (-1.0 / 5040 + y * (1.0 / 362880 - y / 39916800)))));
  const double cosine_sum =
      1 + y * (-0.5 + y * (1.0 / 24 + y * (-1.0 / 720 + y * (1.0 / 40320 + y * (-1.0 / 3628800 + y / 479001600)))));
  std::int64_t bits;
  memcpy(&bits, &shifted, sizeof bits);
  const bool swap = (bits & 1) != 0;
  const double c = swap ? sine_sum : cosine_sum, s = swap ? cosine_sum : sine_sum;
  cosine = static_cast<float>((bits + 1) & 2 ? -c : c);
  sine = static_cast<float>(bits & 2 ? -s : s);
}

}  // namespace llada

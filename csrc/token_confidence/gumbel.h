// Counter-based Gumbel noise: a pure function of (seed, key of the row, token), the same in gumbel_noise of
// ops/gumbel_noise.py. 53 random bits, evaluated in double so that the tail is not cut.
//
// The logarithms here are made of operations that IEEE rounds, none of them contracted: a CPU and a GPU give the same
// bits of noise, which their libraries' logarithms would not.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/host_device.h"
#include "token_confidence/noise_bits.h"

namespace llada {

// 2 atanh(s) = 2 (s + s^3 / 3 + s^5 / 5 + ...) up to s^21 / 21: for |s| < 0.172 the rest is below 1e-17 of it.
LLADA_HOST_DEVICE inline double twice_atanh(double s) {
  const double square = s * s;
  double series = 0.0;
  for (int power = 21; power > 1; power -= 2) series = (series + 1.0 / power) * square;
  return 2.0 * s + 2.0 * s * series;
}

// log(x) of a normal, positive x = 2^exponent * m with m within sqrt(1/2) and sqrt(2).
LLADA_HOST_DEVICE inline double natural_log(double x) {
  constexpr double kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;  // the first times an exponent is exact
  constexpr std::uint64_t kSqrtHalf = 0x3fe6a09e667f3bcdu, kMantissa = (std::uint64_t{1} << 52) - 1;
  std::uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  const std::uint64_t above = bits - kSqrtHalf;  // the exponent counts from sqrt(1/2) on
  const auto exponent = static_cast<std::int64_t>(above) >> 52;
  bits = (above & kMantissa) + kSqrtHalf;
  double m;
  memcpy(&m, &bits, sizeof m);
  const auto whole = static_cast<double>(exponent);
  return whole * kLn2High + (twice_atanh((m - 1.0) / (m + 1.0)) + whole * kLn2Low);
}

class GumbelStream {
 public:
  LLADA_HOST_DEVICE GumbelStream(std::int64_t seed, std::int64_t key)
      : start_(mix_bits(mix_bits(static_cast<std::uint64_t>(seed) + kGolden) ^
                        (static_cast<std::uint64_t>(key) * kGolden))) {}

  // What a token's bits are mixed from; a token later it is kNoiseTokenStep more.
  LLADA_HOST_DEVICE std::uint64_t counter(std::int64_t token) const {
    return start_ + (static_cast<std::uint64_t>(token) + 1) * kNoiseTokenStep;
  }

  // 53 bits; the smaller, the larger the noise.
  LLADA_HOST_DEVICE std::uint64_t bits(std::int64_t token) const { return mix_bits(counter(token)) >> 11; }

  // In (0, 1): the top value would round to 1.
  LLADA_HOST_DEVICE static double uniform(std::uint64_t bits) {
    const double uniform = (static_cast<double>(bits) + 0.5) * 0x1p-53;
    return uniform < 1.0 ? uniform : 1.0 - 0x1p-53;
  }

  // -log(-log(1 - u)).
  LLADA_HOST_DEVICE static double noise(std::uint64_t bits) {
    const double u = uniform(bits);
    return -natural_log(u < 0.25 ? twice_atanh(u / (2.0 - u)) : -natural_log(1.0 - u));
  }

  // At least the noise of these bits, and less than log(2) more than -log(u), without a logarithm.
  static double noise_limit(std::uint64_t bits) {
    constexpr double kLn2 = 0x1.62e42fefa39efp-1;
    return kLn2 * (std::countl_zero(bits) - 10) + 1e-9;
  }

 private:
  static constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15u;
  std::uint64_t start_;
};

}  // namespace llada

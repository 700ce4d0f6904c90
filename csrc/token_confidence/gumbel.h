// Counter-based Gumbel noise: a pure function of (seed, key of the row, token), the same in gumbel_noise of
// ops/token_confidence.py. 53 random bits, evaluated in double so that the tail is not cut.
#pragma once

#include <cmath>
#include <cstdint>

namespace llada {

// The finaliser of splitmix64 (Steele, Lea, Flood 2014).
inline std::uint64_t mix_bits(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

class GumbelStream {
 public:
  GumbelStream(std::int64_t seed, std::int64_t key)
      : start_(mix_bits(mix_bits(static_cast<std::uint64_t>(seed) + kGolden) ^
                        (static_cast<std::uint64_t>(key) * kGolden))) {}

  // 53 bits; the smaller, the larger the noise.
  std::uint64_t bits(std::int64_t token) const {
    return mix_bits(start_ + (static_cast<std::uint64_t>(token) + 1) * kTokenStep) >> 11;
  }

  static double noise(std::uint64_t bits) {
    const double uniform = (static_cast<double>(bits) + 0.5) * 0x1p-53;  // in (0, 1): the top value would round to 1
    return -std::log(-std::log1p(-(uniform < 1.0 ? uniform : 1.0 - 0x1p-53)));
  }

  // Only bits below this can give noise of at least `least`, with room for rounding.
  static double bits_limit(double least) {
    return -std::expm1(-std::exp(-(least - 1e-9 * (1.0 + std::fabs(least))))) * 0x1.000001p53 + 1.0;
  }

 private:
  static constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15u;
  static constexpr std::uint64_t kTokenStep = 0xd1b54a32d192ed03u;
  std::uint64_t start_;
};

}  // namespace llada

// The bodies of panel_statistics.h over the `Vector` that the including file has chosen.
#pragma once

#include <limits>

#include "common/bfloat16.h"
#include "cpu/panel_gemm.h"
#include "token_confidence/noise_bits.h"
#include "token_confidence/panel_statistics.h"

namespace llada {
namespace {

void round_to_bfloat16(float* tile, int rows) {
  for (int i = 0; i < rows * kPanelColumns; i += Vector::kWidth) {
    Vector::store(tile + i, Vector::round_to_bfloat16(Vector::load(tile + i)));
  }
}

void highest(const float* tile, int rows, float* highest) {
  for (int r = 0; r < rows; ++r, tile += kPanelColumns) {
    auto high = Vector::load(tile);
    for (int c = Vector::kWidth; c < kPanelColumns; c += Vector::kWidth) {
      high = Vector::max(Vector::load(tile + c), high);
    }
    highest[r] = Vector::reduce_max(high);
  }
}

// Minus infinity becomes a difference whose power is exactly zero.
constexpr float kFloor = -100.0f;

struct PowerVectors {
  Vector::Float sum, weighted;
};

LLADA_INLINE PowerVectors power_vectors(const float* logits, float reference) {
  const auto origin = Vector::set(reference);
  PowerVectors powers{Vector::set(0.0f), Vector::set(0.0f)};
  for (int c = 0; c < kPanelColumns; c += Vector::kWidth) {
    const auto difference = Vector::max(Vector::set(kFloor), Vector::subtract(Vector::load(logits + c), origin));
    const auto power = Vector::exp2(Vector::multiply(difference, Vector::set(kLog2E)));
    powers.sum = Vector::add(powers.sum, power);
    powers.weighted = Vector::multiply_add(difference, power, powers.weighted);
  }
  return powers;
}

// Of Rows <= 4 rows.
template <int Rows>
LLADA_INLINE void power_sums_of(const float* tile, const float* references, float* sums, float* weighted) {
  PowerVectors rows[4];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    rows[r] = r < Rows ? power_vectors(tile + r * kPanelColumns, references[r])
                       : PowerVectors{Vector::set(0.0f), Vector::set(0.0f)};
  }
  Vector::reduce_add_four(rows[0].sum, rows[1].sum, rows[2].sum, rows[3].sum, sums);
  Vector::reduce_add_four(rows[0].weighted, rows[1].weighted, rows[2].weighted, rows[3].weighted, weighted);
}

void power_sums(const float* tile, int rows, const float* references, PowerSums& sums) {
  static_assert(kRowLanes % 4 == 0);
  int r = 0;
  for (; r + 4 <= rows; r += 4)
    power_sums_of<4>(tile + r * kPanelColumns, references + r, sums.sum + r, sums.weighted + r);
  tile += r * kPanelColumns;
  if (rows - r == 1) power_sums_of<1>(tile, references + r, sums.sum + r, sums.weighted + r);
  if (rows - r == 2) power_sums_of<2>(tile, references + r, sums.sum + r, sums.weighted + r);
  if (rows - r == 3) power_sums_of<3>(tile, references + r, sums.sum + r, sums.weighted + r);
}

LLADA_INLINE Vector::Float scaled_power_vector(const float* logits, float reference, float scale) {
  auto sum = Vector::set(0.0f);
  for (int c = 0; c < kPanelColumns; c += Vector::kWidth) {
    const auto difference = Vector::subtract(Vector::load(logits + c), Vector::set(reference));
    const auto scaled = Vector::max(Vector::set(kFloor), Vector::multiply(difference, Vector::set(scale)));
    sum = Vector::add(sum, Vector::exp2(Vector::multiply(scaled, Vector::set(kLog2E))));
  }
  return sum;
}

void scaled_power_sums(const float* tile, int rows, const float* references, const float* scales, float* sums) {
  const auto of = [&](int r) LLADA_INLINE_LAMBDA {
    return scaled_power_vector(tile + r * kPanelColumns, references[r], scales[r]);
  };
  int r = 0;
  for (; r + 4 <= rows; r += 4) Vector::reduce_add_four(of(r), of(r + 1), of(r + 2), of(r + 3), sums + r);
  for (; r < rows; ++r) sums[r] = Vector::reduce_add(of(r));
}

std::uint32_t lanes_at_least(const float* values, const float* bounds) {
  std::uint32_t bits = 0;
  for (int i = 0; i < kRowLanes; i += Vector::kWidth) {
    bits |= Vector::at_least(Vector::load(values + i), Vector::load(bounds + i)) << i;
  }
  return bits;
}

// Noise is less than -log(u), and u at least half of what has its leading zeros.
std::uint32_t may_reach(const NoiseLanes& noise, const float* highest, std::int64_t first_token, std::uint32_t rows,
                        std::uint64_t* lowest) {
  constexpr float kHalfUnit = 0x1p-54f, kMargin = 1.01f;
  float least[kRowLanes] = {}, most[kRowLanes];
  for (std::uint32_t left = rows; left != 0; left &= left - 1) {
    const int r = __builtin_ctz(left);
    const std::uint64_t counter = noise.start[r] + static_cast<std::uint64_t>(first_token) * kNoiseTokenStep;
    std::uint64_t low = std::numeric_limits<std::uint64_t>::max();
    for (int c = 0; c < kPanelColumns; ++c) {
      const std::uint64_t bits = mix_leading_bits(counter + c * kNoiseTokenStep);
      low = bits < low ? bits : low;
    }
    lowest[r] = low >> 11;
    least[r] = static_cast<float>(static_cast<std::int64_t>(low >> 11)) * kHalfUnit;
  }
  for (int i = 0; i < kRowLanes; i += Vector::kWidth) {
    const auto missing = Vector::subtract(Vector::load(noise.value + i), Vector::load(highest + i));
    // A NaN is where nothing has been found yet.
    const auto steps = Vector::max(Vector::multiply(missing, Vector::load(noise.scale + i)), Vector::set(0.0f));
    const auto power = Vector::exp2(Vector::multiply(steps, Vector::set(-kLog2E)));
    Vector::store(most + i, Vector::multiply(power, Vector::set(kMargin)));
  }
  return rows & lanes_at_least(most, least);
}

void add_lanes(const float* panel, double* sums) {
  for (int i = 0; i < kRowLanes; ++i) sums[i] += panel[i];
}

std::uint32_t lanes_above(const float* values, const float* bounds) {
  std::uint32_t bits = 0;
  for (int i = 0; i < kRowLanes; i += Vector::kWidth) {
    bits |= Vector::above(Vector::load(values + i), Vector::load(bounds + i)) << i;
  }
  return bits;
}

int copy_at_least(const float* logits, float least, std::int64_t first_token, float* kept, std::int32_t* tokens) {
  int count = 0;
  for (int c = 0; c < kPanelColumns; c += Vector::kWidth) {
    const auto values = Vector::load(logits + c);
    const std::uint32_t bits = Vector::at_least(values, Vector::set(least));
    Vector::store_kept(kept + count, tokens + count, values, static_cast<std::int32_t>(first_token) + c, bits);
    count += __builtin_popcount(bits);
  }
  return count;
}

std::uint32_t at_least(const float* logits, float least) {
  std::uint32_t bits = 0;
  for (int c = 0; c < kPanelColumns; c += Vector::kWidth) {
    bits |= Vector::at_least(Vector::load(logits + c), Vector::set(least)) << c;
  }
  return bits;
}

void keep(float* logits, std::uint32_t bits) {
  for (int c = 0; c < kPanelColumns; ++c)
    logits[c] = bits >> c & 1 ? logits[c] : -std::numeric_limits<float>::infinity();
}

constexpr PanelStatistics kPanelStatistics = {.round_to_bfloat16 = &round_to_bfloat16,
                                              .highest = &highest,
                                              .power_sums = &power_sums,
                                              .scaled_power_sums = &scaled_power_sums,
                                              .may_reach = &may_reach,
                                              .add_lanes = &add_lanes,
                                              .lanes_at_least = &lanes_at_least,
                                              .lanes_above = &lanes_above,
                                              .copy_at_least = &copy_at_least,
                                              .at_least = &at_least,
                                              .keep = &keep};

}  // namespace
}  // namespace llada

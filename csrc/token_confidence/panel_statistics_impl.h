// The bodies of panel_statistics.h over the `Vector` that the including file has chosen.
#pragma once

#include <limits>

#include "common/bfloat16.h"
#include "cpu/panel_gemm.h"
#include "token_confidence/choice_key.h"
#include "token_confidence/noise_bits.h"
#include "token_confidence/panel_statistics.h"

namespace llada {
namespace {

void round_to_bfloat16(float* tile, int rows) {
  for (int i = 0; i < rows * kPanelColumns; i += Vector::kWidth) {
    Vector::store(tile + i, Vector::round_to_bfloat16(Vector::load(tile + i)));
  }
}

template <bool Round>
LLADA_INLINE Vector::Float highest_vector(float* logits) {
  const auto load = [&](int c) LLADA_INLINE_LAMBDA {
    if constexpr (Round) Vector::store(logits + c, Vector::round_to_bfloat16(Vector::load(logits + c)));
    return Vector::load(logits + c);
  };
  auto high = load(0);
  for (int c = Vector::kWidth; c < kPanelColumns; c += Vector::kWidth) high = Vector::max(load(c), high);
  return high;
}

template <bool Round>
RowsReached highest(float* tile, int rows, const RowBounds& bounds, float* highest) {
  static_assert(kRowLanes % 4 == 0);
  const auto of = [&](int r) LLADA_INLINE_LAMBDA {
    return highest_vector<Round>(tile + (r < rows ? r : rows - 1) * kPanelColumns);
  };
  for (int r = 0; r < rows; r += 4) Vector::reduce_max_four(of(r), of(r + 1), of(r + 2), of(r + 3), highest + r);
  RowsReached reached{};
  for (int i = 0; i < kRowLanes; i += Vector::kWidth) {
    const auto high = Vector::load(highest + i);
    reached.above |= Vector::above(high, Vector::load(bounds.above + i)) << i;
    reached.candidate |= Vector::at_least(high, Vector::load(bounds.candidate + i)) << i;
    reached.noised |= Vector::at_least(high, Vector::load(bounds.noised + i)) << i;
  }
  const std::uint32_t all = (std::uint32_t{1} << rows) - 1;
  return {reached.above & all, reached.candidate & all, reached.noised & all};
}

// Minus infinity becomes a difference whose power is exactly zero.
constexpr float kFloor = -100.0f;

void add_powers(const float* tile, int rows, const float* references, RowSums& sum, RowSums& weighted) {
  for (int r = 0; r < rows; ++r, tile += kPanelColumns) {
    const auto reference = Vector::set(references[r]);
    auto powers = Vector::load(sum.parts[r]), products = Vector::load(weighted.parts[r]);
    for (int c = 0; c < kPanelColumns; c += Vector::kWidth) {
      const auto difference = Vector::max(Vector::set(kFloor), Vector::subtract(Vector::load(tile + c), reference));
      const auto power = Vector::exp2(Vector::multiply(difference, Vector::set(kLog2E)));
      powers = Vector::add(powers, power);
      products = Vector::multiply_add(difference, power, products);
    }
    Vector::store(sum.parts[r], powers);
    Vector::store(weighted.parts[r], products);
  }
}

void add_scaled_powers(const float* tile, int rows, const float* references, const float* scales, RowSums& sum) {
  for (int r = 0; r < rows; ++r, tile += kPanelColumns) {
    const auto reference = Vector::set(references[r]), scale = Vector::set(scales[r]);
    auto powers = Vector::load(sum.parts[r]);
    for (int c = 0; c < kPanelColumns; c += Vector::kWidth) {
      const auto difference = Vector::multiply(Vector::subtract(Vector::load(tile + c), reference), scale);
      const auto floored = Vector::max(Vector::set(kFloor), difference);
      powers = Vector::add(powers, Vector::exp2(Vector::multiply(floored, Vector::set(kLog2E))));
    }
    Vector::store(sum.parts[r], powers);
  }
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
  std::uint32_t reached = 0;
  for (int i = 0; i < kRowLanes; i += Vector::kWidth) {
    reached |= Vector::at_least(Vector::load(most + i), Vector::load(least + i)) << i;
  }
  return rows & reached;
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

void make_keys(const float* logits, const std::int32_t* tokens, int count, std::uint64_t* keys) {
  for (int i = 0; i < count; ++i) keys[i] = choice_key(logits[i], tokens[i]);
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
                                              .highest = &highest<false>,
                                              .highest_rounded = &highest<true>,
                                              .add_powers = &add_powers,
                                              .add_scaled_powers = &add_scaled_powers,
                                              .may_reach = &may_reach,
                                              .copy_at_least = &copy_at_least,
                                              .make_keys = &make_keys,
                                              .at_least = &at_least,
                                              .split_keys = &Vector::split_keys,
                                              .keep = &keep};

}  // namespace
}  // namespace llada

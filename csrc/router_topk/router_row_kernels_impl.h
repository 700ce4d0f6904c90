// The bodies of router_row_kernels.h over the `Vector` that the including file has chosen.
//
//   select_largest, until there are as many:  the maximum of all lanes
//                                             --> a bit for each lane that equals it: chosen, by rising index
//                                             --> those lanes become minus infinity
//
// No branch depends on which expert is chosen: insertion into a sorted list spends most of its time on branches that
// cannot be foreseen.
#pragma once

#include <algorithm>
#include <limits>

#include "common/bfloat16.h"
#include "router_topk/router_row_kernels.h"

namespace llada {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

void pad(float* values, std::int64_t num_experts) {
  std::fill(values + num_experts, values + expert_lanes(num_experts), kNone);
}

// e^x = 2^whole 2^part for x <= 87, 0 for minus infinity: x less whole ln(2) loses nothing, where x log2(e) would.
LLADA_INLINE Vector::Float exponential(Vector::Float x) {
  constexpr float kVanishes = -110.0f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer
  constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;  // the first times an exponent is exact
  x = Vector::max(Vector::set(kVanishes), x);
  const auto power = Vector::multiply(x, Vector::set(kLog2E));
  const auto whole = Vector::subtract(Vector::add(power, Vector::set(kRound)), Vector::set(kRound));
  auto rest = Vector::multiply_add(whole, Vector::set(-kLn2High), x);
  rest = Vector::multiply_add(whole, Vector::set(-kLn2Low), rest);
  return Vector::multiply(Vector::exp2(Vector::multiply(rest, Vector::set(kLog2E))), Vector::exp2(whole));
}

void softmax(float* values, std::int64_t num_experts) {
  const std::int64_t lanes = expert_lanes(num_experts);
  pad(values, num_experts);
  auto highest = Vector::load(values);
  for (std::int64_t i = Vector::kWidth; i < lanes; i += Vector::kWidth) {
    highest = Vector::max(Vector::load(values + i), highest);
  }
  const auto maximum = Vector::max_of_all(highest);
  auto sums = Vector::set(0.0f);
  for (std::int64_t i = 0; i < lanes; i += Vector::kWidth) {
    const auto power = exponential(Vector::subtract(Vector::load(values + i), maximum));
    Vector::store(values + i, power);
    sums = Vector::add(sums, power);
  }
  const auto sum = Vector::set(Vector::reduce_add(sums));
  for (std::int64_t i = 0; i < lanes; i += Vector::kWidth) {
    Vector::store(values + i, Vector::divide(Vector::load(values + i), sum));
  }
}

// 1 / (1 + e^-x)
void sigmoid(float* values, std::int64_t num_experts) {
  constexpr float kLeast = -87.0f;  // below it e^-x would leave what exp2 takes; the result is 1e-38 there
  const auto one = Vector::set(1.0f);
  pad(values, num_experts);
  for (std::int64_t i = 0; i < expert_lanes(num_experts); i += Vector::kWidth) {
    const auto x = Vector::max(Vector::set(kLeast), Vector::load(values + i));
    Vector::store(values + i,
                  Vector::divide(one, Vector::add(one, exponential(Vector::subtract(Vector::set(0.0f), x)))));
  }
}

// kExpertLanes values in registers.
struct Block {
  static constexpr int kVectors = kExpertLanes / Vector::kWidth;
  Vector::Float vectors[kVectors];

  explicit LLADA_INLINE Block(const float* values) {
    for (int i = 0; i < kVectors; ++i) vectors[i] = Vector::load(values + i * Vector::kWidth);
  }

  LLADA_INLINE void store(float* values) const {
    for (int i = 0; i < kVectors; ++i) Vector::store(values + i * Vector::kWidth, vectors[i]);
  }

  LLADA_INLINE Vector::Float highest() const {
    auto high = vectors[0];
    for (int i = 1; i < kVectors; ++i) high = Vector::max(vectors[i], high);
    return high;
  }

  LLADA_INLINE std::uint64_t at_least(Vector::Float least) const {
    std::uint64_t bits = 0;
    for (int i = 0; i < kVectors; ++i) {
      bits |= std::uint64_t{Vector::at_least(vectors[i], least)} << (i * Vector::kWidth);
    }
    return bits;
  }

  LLADA_INLINE bool has_nan() const {
    std::uint32_t numbers = ~std::uint32_t{0};
    for (int i = 0; i < kVectors; ++i) numbers &= Vector::at_least(vectors[i], vectors[i]);
    return numbers != (std::uint32_t{1} << Vector::kWidth) - 1;
  }

  // Makes those of at least that minus infinity.
  LLADA_INLINE void drop(Vector::Float least) {
    for (int i = 0; i < kVectors; ++i) vectors[i] = Vector::keep(Vector::above(least, vectors[i]), vectors[i]);
  }
};

LLADA_INLINE bool is_none(Vector::Float maximum) { return Vector::above(maximum, Vector::set(kNone)) == 0; }

// What is left is minus infinity: the lowest of those not among the first `chosen`.
void take_rest(std::int64_t chosen, std::int64_t count, std::int32_t* largest) {
  std::int32_t* end = largest + chosen;
  for (std::int32_t e = 0; end < largest + count; ++e) {
    if (std::find(largest, largest + chosen, e) == largest + chosen) *end++ = e;
  }
}

// Experts first + each bit, which are equally large, into slots from `slot` on; returns the next.
LLADA_INLINE std::int64_t take(std::uint64_t bits, std::int64_t first, std::int64_t slot, std::int64_t count,
                               std::int32_t* largest) {
  for (; bits != 0 && slot < count; bits &= bits - 1) {
    largest[slot++] = static_cast<std::int32_t>(first) + __builtin_ctzll(bits);
  }
  return slot;
}

// select_largest where one block is all: it stays in registers, which takes 13 % less time.
bool select_of_block(const float* values, std::int64_t count, std::int32_t* largest) {
  Block block(values);
  if (block.has_nan()) return false;
  for (std::int64_t slot = 0; slot < count;) {
    const auto maximum = Vector::max_of_all(block.highest());
    if (is_none(maximum)) {
      take_rest(slot, count, largest);
      break;
    }
    slot = take(block.at_least(maximum), 0, slot, count, largest);
    block.drop(maximum);
  }
  return true;
}

bool select_largest(float* values, std::int64_t num_experts, std::int64_t count, std::int32_t* largest) {
  const std::int64_t lanes = expert_lanes(num_experts);
  pad(values, num_experts);
  if (lanes == kExpertLanes) return select_of_block(values, count, largest);
  for (std::int64_t first = 0; first < lanes; first += kExpertLanes) {
    if (Block(values + first).has_nan()) return false;
  }
  for (std::int64_t slot = 0; slot < count;) {
    auto high = Block(values).highest();
    for (std::int64_t first = kExpertLanes; first < lanes; first += kExpertLanes) {
      high = Vector::max(Block(values + first).highest(), high);
    }
    const auto maximum = Vector::max_of_all(high);
    if (is_none(maximum)) {
      take_rest(slot, count, largest);
      break;
    }
    for (std::int64_t first = 0; first < lanes; first += kExpertLanes) {
      Block block(values + first);
      const std::uint64_t bits = block.at_least(maximum);
      if (bits == 0) continue;
      slot = take(bits, first, slot, count, largest);
      block.drop(maximum);
      block.store(values + first);
    }
  }
  return true;
}

constexpr RouterRowKernels kRouterRowKernels{softmax, sigmoid, select_largest};

}  // namespace
}  // namespace llada

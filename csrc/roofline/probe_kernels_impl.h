// The two loops of the probes, written once and compiled for each instruction set. The file that includes this one
// defines its vector types; all is local to that file.
//
//   read      8 vectors an iteration into 4 independent sums: it waits for loads, not for sums.
//   products  one register tile of the kernels, Rows x Vectors sums, on operands that never leave L1:
//             [Rows] broadcast 32-bit lanes x [Vectors] vectors of them. A lane is one fp32, two bf16 or four int8,
//             taken in Element::kSteps steps where the instruction set must widen it first. What comes out is the most
//             that a kernel with such a tile can reach, its loads and conversions included.
#pragma once

#include <cstring>

#include "common/bfloat16.h"
#include "roofline/probe_kernels.h"

namespace llada {
namespace {

// Makes the compiler believe that the memory is read and changed here: it can neither drop nor hoist work on it.
LLADA_INLINE void touch(const void* memory) { asm volatile("" : : "r"(memory) : "memory"); }

template <class Lanes>
LLADA_INLINE Lanes load(const void* memory) {
  Lanes lanes;
  std::memcpy(&lanes, memory, sizeof lanes);
  return lanes;
}

template <class Lanes>
void read(const char* data, std::int64_t bytes) {
  constexpr int kLoads = 8, kSums = 4;
  Lanes sums[kSums] = {};
  for (std::int64_t at = 0; at < bytes; at += kLoads * static_cast<int>(sizeof(Lanes))) {
#pragma GCC unroll 8
    for (int i = 0; i < kLoads; ++i) sums[i % kSums] ^= load<Lanes>(data + at + i * sizeof(Lanes));
  }
  const Lanes total = sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
  touch(&total);
}

template <class Element, int Step, int Rows, int Vectors>
LLADA_INLINE void multiply_tile(const std::uint32_t* rows, const std::uint32_t* panel,
                                typename Element::Sum (&sums)[Rows][Vectors]) {
  using Lanes = typename Element::Lanes;
  decltype(Element::template operand<Step>(Lanes{})) weights[Vectors];
#pragma GCC unroll 4
  for (int v = 0; v < Vectors; ++v) {
    weights[v] = Element::template operand<Step>(load<Lanes>(panel + v * (sizeof(Lanes) / 4)));
  }
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
    const auto value = Element::template operand<Step>(Element::broadcast(rows[r]));
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sums[r][v] = Element::multiply_add(sums[r][v], value, weights[v]);
  }
}

template <class Element, int Rows, int Vectors>
void products(std::int64_t repeats) {
  constexpr int kWidth = sizeof(typename Element::Lanes) / 4;
  // Ordinary numbers in every dtype: some processors are faster on zeros, and slower on what is not normal.
  constexpr std::uint32_t kLane = 0x3f803f80;
  alignas(64) std::uint32_t rows[Rows], panel[Vectors * kWidth];
  for (std::uint32_t& lane : rows) lane = kLane;
  for (std::uint32_t& lane : panel) lane = kLane;
  typename Element::Sum sums[Rows][Vectors] = {};
  for (std::int64_t i = 0; i < repeats; ++i) {
    touch(rows);
    touch(panel);
    multiply_tile<Element, 0>(rows, panel, sums);
    if constexpr (Element::kSteps == 2) {
      touch(panel);  // loaded again rather than kept: registers are for the sums
      multiply_tile<Element, 1>(rows, panel, sums);
    }
  }
  typename Element::Lanes total = {};
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) total ^= (typename Element::Lanes)sums[r][v];
  }
  touch(&total);
}

template <class Element, int Rows, int Vectors>
constexpr ProbeProducts probe_products() {
  constexpr int kProducts = Rows * Vectors * (sizeof(typename Element::Lanes) / 4) * Element::kValues;
  return {products<Element, Rows, Vectors>, 2 * kProducts};
}

}  // namespace
}  // namespace llada

// The body of tile_ops.h, compiled once per instruction set: include exactly one cpu/vector_*.h before it.
#pragma once

#include <cstring>

#include "cpu/panel_gemm.h"
#include "cpu/tile_ops.h"

namespace llada {
namespace {

constexpr int kPairColumns = kPanelColumns / 2;
constexpr float kLargestExponent = 126.0f;  // 2^126: far enough for g / (1 + e^-g) to vanish, below overflow

void swiglu(float* tile, int num_rows) {
  for (int r = 0; r < num_rows; ++r, tile += kPanelColumns) {
    for (int c = 0; c < kPairColumns; c += Vector::kWidth) {
      const auto gate = Vector::load(tile + c), up = Vector::load(tile + kPairColumns + c);
      const auto scaled = Vector::max(Vector::multiply(gate, Vector::set(kLog2E)), Vector::set(-kLargestExponent));
      const auto exponential = Vector::exp2(Vector::subtract(Vector::set(0.0f), scaled));
      const auto silu = Vector::divide(gate, Vector::add(Vector::set(1.0f), exponential));
      Vector::store(tile + c, Vector::multiply(silu, up));
    }
  }
}

template <class Element>
void store(const StoreTileArgs& args) {
  for (int r = 0; r < args.num_rows; ++r) {
    const float* row = args.tile + r * kPanelColumns;
    auto* out = static_cast<Element*>(args.out) + r * args.out_stride;
    int c = 0;
    for (; c + Vector::kWidth <= args.num_columns; c += Vector::kWidth) {
      auto value = Vector::load(row + c);
      if (args.bias != nullptr) value = Vector::add(value, Vector::load(args.bias + c));
      Vector::store_elements(out + c, value);
    }
    for (; c < args.num_columns; ++c) {
      out[c] = from_float<Element>(args.bias == nullptr ? row[c] : row[c] + args.bias[c]);
    }
  }
}

template <class Element>
void pack(const float* tile, int num_rows, int lanes, std::uint32_t* rows) {
  for (int r = 0; r < num_rows; ++r) {
    alignas(64) Element elements[kPanelColumns];
    std::uint32_t row[kPanelColumns];
    for (int c = 0; c < kPanelColumns; c += Vector::kWidth) {
      Vector::store_elements(elements + c, Vector::load(tile + r * kPanelColumns + c));
    }
    std::memcpy(row, elements, sizeof elements);
    for (int lane = 0; lane < lanes; ++lane) rows[lane * num_rows + r] = row[lane];
  }
}

template <class Element>
void combine(const CombineArgs& args) {
  auto* out = static_cast<Element*>(args.out);
  std::int64_t c = 0;
  for (; c + Vector::kWidth <= args.columns; c += Vector::kWidth) {
    auto sum = Vector::set(0.0f);
    for (int slot = 0; slot < args.slots; ++slot) {
      if (args.experts[slot] >= args.num_experts) continue;
      sum =
          Vector::multiply_add(Vector::set(args.weights[slot]), Vector::load(args.rows + slot * args.columns + c), sum);
    }
    Vector::store_elements(out + c, sum);
  }
  for (; c < args.columns; ++c) {
    float sum = 0.0f;
    for (int slot = 0; slot < args.slots; ++slot) {
      if (args.experts[slot] < args.num_experts) sum += args.weights[slot] * args.rows[slot * args.columns + c];
    }
    out[c] = from_float<Element>(sum);
  }
}

template <class Element>
constexpr TileOps kTileOps{swiglu, store<Element>, pack<Element>, combine<Element>};

}  // namespace
}  // namespace llada

// The body of tile_ops.h, compiled once per instruction set: include exactly one cpu/vector_*.h before it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

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

// The lines that the next rows' tile goes to are fetched: their owners have a whole tile's time to give them up.
template <class Element>
void store(const StoreTileArgs& args) {
  for (int r = 0; r < args.num_rows; ++r) {
    const float* row = args.tile + r * kPanelColumns;
    auto* out = static_cast<Element*>(args.out) + r * args.out_stride;
    const auto* next = reinterpret_cast<const char*>(out + args.num_rows * args.out_stride);
    for (std::size_t line = 0; line < kPanelColumns * sizeof(Element); line += 64) __builtin_prefetch(next + line, 1);
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

void scatter(const ScatterTileArgs& args) {
  for (int r = 0; r < args.num_rows; ++r) {
    const float* row = args.tile + r * kPanelColumns;
    float* out = args.out + args.index_of_row[r] * args.out_stride;
    if (args.streamed) {
      for (int c = 0; c < kPanelColumns; c += Vector::kWidth) Vector::stream(out + c, Vector::load(row + c));
    } else {
      std::memcpy(out, row, args.num_columns * sizeof(float));
    }
  }
}

void add(const AddTileArgs& args) {
  for (int r = 0; r < args.num_rows; ++r) {
    const float* row = args.tile + r * kPanelColumns;
    float* sums = args.sums + args.token[r] * std::int64_t{kPanelColumns};
    const auto weight = Vector::set(args.weights[args.assignment[r]]);
    for (int c = 0; c < kPanelColumns; c += Vector::kWidth) {
      Vector::store(sums + c, Vector::multiply_add(weight, Vector::load(row + c), Vector::load(sums + c)));
    }
  }
}

template <class Element>
void pack(const float* tile, int num_rows, int lanes, std::uint32_t* rows) {
  constexpr int kLaneElements = static_cast<int>(sizeof(std::uint32_t) / sizeof(Element));
  if constexpr (kLaneElements == 1) {
    pack_rows(DType::kFloat32, tile, kPanelColumns, nullptr, num_rows, lanes, rows);
  } else {
    alignas(64) Element elements[kMaxPanelRows * kPanelColumns];
    for (int r = 0; r < num_rows; ++r) {
      const int row = r * kPanelColumns;
      for (int c = 0; c < lanes * kLaneElements; c += Vector::kWidth) {
        Vector::store_elements(elements + row + c, Vector::load(tile + row + c));
      }
    }
    pack_rows(DType::kFloat32, elements, kPanelColumns / kLaneElements, nullptr, num_rows, lanes, rows);
  }
}

template <class Element>
void combine(const CombineArgs& args) {
  auto* out = static_cast<Element*>(args.out);
  std::int64_t c = 0;
  for (; c + Vector::kWidth <= args.columns; c += Vector::kWidth) {
    auto sum = Vector::set(0.0f);
    for (int i = 0; i < args.num_slots; ++i) {
      const std::int32_t slot = args.slots[i];
      const float* row = args.rows + slot * args.columns;
      sum = Vector::multiply_add(Vector::set(args.weights[slot]), Vector::load(row + c), sum);
    }
    Vector::store_elements(out + c, sum);
  }
  for (; c < args.columns; ++c) {
    float sum = 0.0f;
    for (int i = 0; i < args.num_slots; ++i) {
      sum += args.weights[args.slots[i]] * args.rows[args.slots[i] * args.columns + c];
    }
    out[c] = from_float<Element>(sum);
  }
}

template <class Element>
QuantizedRow quantize(const void* row, std::int64_t k, std::int8_t* bytes) {
  constexpr float kLargestByte = 127.0f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  constexpr std::int32_t kRoundBits = 0x4b400000;
  const auto* values = static_cast<const Element*>(row);
  // Magnitudes compare like their bits, and integer maxima vectorise.
  std::int32_t largest_bits = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    largest_bits = std::max(largest_bits, std::bit_cast<std::int32_t>(to_float(values[i])) & 0x7fffffff);
  }
  const auto largest = std::bit_cast<float>(largest_bits);
  if (!(largest < std::numeric_limits<float>::infinity())) {
    std::memset(bytes, 0, k);
    return {std::numeric_limits<float>::quiet_NaN(), 0};
  }
  // The reciprocal of a magnitude below 2^-120 could overflow; such a row counts as zero.
  const float inverse = largest > 0x1p-120f ? kLargestByte / largest : 0.0f;
  std::int32_t sum = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    const float shifted = to_float(values[i]) * inverse + kRound;
    const std::int32_t byte = std::bit_cast<std::int32_t>(shifted) - kRoundBits;
    bytes[i] = static_cast<std::int8_t>(byte);
    sum += byte;
  }
  return {largest / kLargestByte, sum};
}

template <class Element>
constexpr TileOps kTileOps{swiglu, store<Element>, scatter,           Vector::end_stream,
                           add,    pack<Element>,  quantize<Element>, combine<Element>};

}  // namespace
}  // namespace llada

// Arrays for the C++ tests: owned memory, deterministic values, room for packed weights.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "common/array_view.h"
#include "common/bfloat16.h"
#include "cpu/panel_weights.h"
#include "cpu/scratch.h"

#define EXPECT(condition, ...)                                             \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, __VA_ARGS__);                                   \
      std::fputc('\n', stderr);                                            \
      std::exit(1);                                                        \
    }                                                                      \
  } while (false)

namespace llada {

using Sizes = std::vector<std::int64_t>;

// A contiguous array of zeros that owns its memory.
class Array {
 public:
  Array(DType dtype, const Sizes& sizes) : memory_(count(sizes) * dtype_bytes(dtype) + 64) {
    view.data = memory_.data();
    view.dtype = dtype;
    view.rank = static_cast<int>(sizes.size());
    std::copy(sizes.begin(), sizes.end(), view.sizes.begin());
    std::int64_t stride = 1;
    for (int dim = view.rank - 1; dim >= 0; stride *= view.sizes[dim--]) view.strides[dim] = stride;
    std::memset(view.data, 0, bytes());
  }

  std::size_t bytes() const { return view.elements() * dtype_bytes(view.dtype); }

  ArrayView view;

 private:
  static std::int64_t count(const Sizes& sizes) {
    std::int64_t product = 1;
    for (const std::int64_t size : sizes) product *= size;
    return product;
  }
  Scratch<char> memory_;
};

using Arrays = std::vector<Array>;

// Multiples of 1/32 in [-1, 1), exact in bfloat16.
inline Array numbers(DType dtype, const Sizes& sizes, std::int64_t seed) {
  Array array(dtype, sizes);
  for (std::int64_t i = 0; i < array.view.elements(); ++i) {
    const float value = static_cast<float>(((i * 7 + seed) * 37 + i / 61 + 11) % 63 - 31) / 32.0f;
    if (dtype == DType::kFloat32) {
      array.view.as<float>()[i] = value;
    } else {
      array.view.as<bfloat16>()[i] = from_float<bfloat16>(value);
    }
  }
  return array;
}

inline Array integers(const Sizes& sizes, const std::function<std::int64_t(std::int64_t)>& value,
                      DType dtype = DType::kInt32) {
  Array array(dtype, sizes);
  for (std::int64_t i = 0; i < array.view.elements(); ++i) {
    if (dtype == DType::kInt32) {
      array.view.as<std::int32_t>()[i] = static_cast<std::int32_t>(value(i));
    } else {
      array.view.as<std::int64_t>()[i] = value(i);
    }
  }
  return array;
}

struct Format {
  const char* name;
  PanelFormat panel;
  DType plain;  // of the weights before, and of the activations
};

inline constexpr Format kFormats[] = {{"fp32", PanelFormat::kFloat32, DType::kFloat32},
                                      {"bf16", PanelFormat::kBFloat16, DType::kBFloat16},
                                      {"int8", PanelFormat::kInt8, DType::kBFloat16},
                                      {"int4", PanelFormat::kInt4, DType::kFloat32}};

// Room for packed weights; groups < 0: no leading dimension.
inline Array panels_for(const Format& format, std::int64_t groups, std::int64_t columns, std::int64_t k,
                        bool paired = false) {
  const PackedShape shape = packed_shape(format.panel, groups, columns, k, paired);
  return Array(shape.dtype, {shape.sizes().begin(), shape.sizes().end()});
}

// Entry `index` of the first dimension.
inline ArrayView item(const ArrayView& view, std::int64_t index) {
  ArrayView part = view;
  part.data = view.as<char>() + index * view.stride(0) * dtype_bytes(view.dtype);
  part.rank = view.rank - 1;
  for (int dim = 0; dim < part.rank; ++dim) {
    part.sizes[dim] = view.sizes[dim + 1];
    part.strides[dim] = view.strides[dim + 1];
  }
  return part;
}

}  // namespace llada

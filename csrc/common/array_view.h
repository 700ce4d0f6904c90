// The shape in which tensors cross into the core: a pointer, a dtype, sizes, strides and a device.
// Doors (csrc/binding) make views; ops read them. A view owns nothing.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "common/dtype.h"

namespace llada {

enum class DeviceKind : std::uint8_t { kCpu, kCuda, kOther };

const char* dtype_name(DType dtype);
std::int64_t dtype_bytes(DType dtype);

struct ArrayView {
  static constexpr int kMaxRank = 6;

  void* data = nullptr;
  DType dtype = DType::kOther;
  DeviceKind device = DeviceKind::kCpu;
  int device_index = 0;
  int rank = 0;
  std::array<std::int64_t, kMaxRank> sizes{};
  std::array<std::int64_t, kMaxRank> strides{};  // in elements

  bool defined() const { return rank > 0 || data != nullptr; }
  std::int64_t size(int dim) const { return sizes[dim]; }
  std::int64_t stride(int dim) const { return strides[dim]; }
  std::int64_t elements() const {
    std::int64_t product = 1;
    for (int dim = 0; dim < rank; ++dim) product *= sizes[dim];
    return product;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// Memory of the CPU as a contiguous array.
ArrayView contiguous_view(void* data, DType dtype, std::initializer_list<std::int64_t> sizes);

std::string shape_text(const ArrayView& view);   // "[3, 5]"
std::string device_text(const ArrayView& view);  // "cpu", "cuda:1"

}  // namespace llada

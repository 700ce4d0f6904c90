// Stable-ABI tensors as the core's views. The core's ValueError and TypeError are std::runtime_error, which is also
// what STD_TORCH_CHECK throws: they reach Python as RuntimeError with their message (the Python wrappers, which check
// first, raise ValueError and TypeError).
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <vector>

#include "common/array_view.h"
#include "common/large_pages.h"

namespace llada {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType to_dtype(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::Int:
      return DType::kInt32;
    case ScalarType::Long:
      return DType::kInt64;
    case ScalarType::Bool:
      return DType::kBool;
    case ScalarType::Char:
      return DType::kInt8;
    case ScalarType::Byte:
      return DType::kUInt8;
    default:
      return DType::kOther;
  }
}

inline ArrayView view(const Tensor& tensor) {
  ArrayView result;
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  STD_TORCH_CHECK(sizes.size() <= ArrayView::kMaxRank, "llada_moe: a tensor has more than ", ArrayView::kMaxRank,
                  " dimensions");
  result.data = tensor.data_ptr();
  result.dtype = to_dtype(tensor.scalar_type());
  result.device = tensor.is_cpu() ? DeviceKind::kCpu : tensor.is_cuda() ? DeviceKind::kCuda : DeviceKind::kOther;
  result.device_index = tensor.get_device_index();
  result.rank = static_cast<int>(sizes.size());
  for (int dim = 0; dim < result.rank; ++dim) {
    result.sizes[dim] = sizes[dim];
    result.strides[dim] = strides[dim];
  }
  return result;
}

// An absent optional is an undefined view.
inline ArrayView view(const std::optional<Tensor>& tensor) { return tensor ? view(*tensor) : ArrayView{}; }

// A new contiguous tensor on the device of `like`; its dtype is that of `like` unless given.
inline Tensor new_tensor(const Tensor& like, const std::vector<std::int64_t>& sizes,
                         std::optional<ScalarType> dtype = std::nullopt) {
  Tensor tensor = torch::stable::new_empty(like, {sizes.data(), sizes.size()}, dtype);
  const std::size_t bytes = static_cast<std::size_t>(tensor.numel()) * tensor.element_size();
  if (tensor.is_cpu()) prefer_large_pages_of_result(tensor.data_ptr(), bytes);
  return tensor;
}

}  // namespace llada

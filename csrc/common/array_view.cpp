#include "common/array_view.h"

namespace llada {

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat16:
      return "float16";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
    case DType::kBool:
      return "bool";
    case DType::kInt8:
      return "int8";
    case DType::kUInt8:
      return "uint8";
    case DType::kOther:
      break;
  }
  return "an unsupported dtype";
}

std::int64_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
    case DType::kInt64:
      return 8;
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
    case DType::kBFloat16:
    case DType::kFloat16:
      return 2;
    case DType::kBool:
    case DType::kInt8:
    case DType::kUInt8:
      return 1;
    case DType::kOther:
      break;
  }
  return 0;
}

ArrayView contiguous_view(void* data, DType dtype, std::initializer_list<std::int64_t> sizes) {
  ArrayView view;
  view.data = data;
  view.dtype = dtype;
  for (const std::int64_t size : sizes) view.sizes[view.rank++] = size;
  std::int64_t stride = 1;
  for (int dim = view.rank - 1; dim >= 0; --dim) {
    view.strides[dim] = stride;
    stride *= view.sizes[dim];
  }
  return view;
}

std::string shape_text(const ArrayView& view) {
  std::string text = "[";
  for (int dim = 0; dim < view.rank; ++dim) {
    if (dim > 0) text += ", ";
    text += std::to_string(view.sizes[dim]);
  }
  return text + "]";
}

std::string device_text(const ArrayView& view) {
  if (view.device == DeviceKind::kCpu) return "cpu";
  return view.device == DeviceKind::kCuda ? "cuda:" + std::to_string(view.device_index) : "another device";
}

}  // namespace llada

// From a dtype at run time to a template argument.
#pragma once

#include "common/dtype.h"
#include "cuda/element.h"

namespace llada::cuda {

// Calls function(Element{}) with the element type of a dtype that tensor cores multiply.
template <class Function>
int dispatch_16_bit(DType dtype, Function function) {
  switch (dtype) {
    case DType::kBFloat16:
      return function(__nv_bfloat16{});
    case DType::kFloat16:
      return function(__half{});
    default:
      return cudaErrorInvalidValue;
  }
}

// The same for every dtype of activations.
template <class Function>
int dispatch_floating(DType dtype, Function function) {
  return dtype == DType::kFloat32 ? function(float{}) : dispatch_16_bit(dtype, function);
}

}  // namespace llada::cuda

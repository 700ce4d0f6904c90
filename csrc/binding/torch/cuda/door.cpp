#include "binding/torch/cuda/door.h"

#include <dlfcn.h>

namespace llada {

#ifdef LLADA_EMULATE

CudaCall::CudaCall(const Tensor&) {}

#else
namespace {

using CurrentStream = AOTITorchError (*)(std::int32_t device, void** stream);

// It is in libtorch_cuda.so alone: looked up in the torch that is loaded, so that this library also loads beside a
// torch without CUDA.
CurrentStream find_current_stream() {
  void* torch_cuda = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  void* found = dlsym(torch_cuda != nullptr ? torch_cuda : RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream");
  return reinterpret_cast<CurrentStream>(found);
}

cuda::Stream current_stream(std::int32_t device) {
  static const CurrentStream ask = find_current_stream();
  STD_TORCH_CHECK(ask != nullptr, "llada_moe: a CUDA tensor came, but this torch has no CUDA");
  cuda::Stream stream;
  STABLE_TORCH_ERROR_CODE_CHECK(ask(device, &stream.handle));
  return stream;
}

}  // namespace

CudaCall::CudaCall(const Tensor& like)
    : guard_(like.get_device_index()), stream_(current_stream(like.get_device_index())) {}

#endif

}  // namespace llada

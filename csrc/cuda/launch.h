// Launching a kernel and declaring its shared memory, on a GPU or in the emulator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>

#include "cuda/toolkit.h"

namespace llada::cuda {

struct LaunchConfig {
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes = 0;  // dynamic; more than 48 KB is asked for as needed
  void* stream = nullptr;
  // Starts while the kernel before it on the stream is still running (programmatic dependent launch, sm_90). The kernel
  // calls ptx::wait_for_previous_kernel() before it touches anything that kernel writes or reads.
  bool overlap_previous = false;
};

// Of the current device; 0 or a cudaError_t.
inline int multiprocessors(int* count) {
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device)) return error;
  return cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device);
}

#ifdef LLADA_EMULATE

template <class... Parameters>
int launch(const LaunchConfig& config, void (*kernel)(Parameters...), std::type_identity_t<Parameters>... arguments) {
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;
  } call{kernel, {arguments...}};
  const auto run = [](void* pointer) {
    auto* self = static_cast<Call*>(pointer);
    std::apply(self->kernel, self->arguments);
  };
  return emulate::launch(config.grid, config.block, config.shared_bytes, run, &call,
                         reinterpret_cast<const void*>(kernel));
}

// Dynamic shared memory as `type* name`, aligned to 1024 bytes (a 128-byte swizzle's period).
#define LLADA_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(::llada::emulate::current->block->shared)

// type name[count] in shared memory; count is a constant expression.
#define LLADA_SHARED_ARRAY(type, name, count) \
  static const char name##_key = 0;           \
  auto& name = *static_cast<type(*)[count]>(::llada::emulate::static_array(&name##_key, sizeof(type) * (count)))

#else

// 0 or a cudaError_t. Returns at once: errors of the kernel itself show at the next synchronisation.
template <class... Parameters>
int launch(const LaunchConfig& config, void (*kernel)(Parameters...), std::type_identity_t<Parameters>... arguments) {
  constexpr std::size_t kWithoutAsking = 48 << 10;
  if (config.shared_bytes > kWithoutAsking) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(config.shared_bytes));
    if (error != cudaSuccess) {
      cudaGetLastError();
      return error;
    }
  }
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t native{};
  native.gridDim = config.grid;
  native.blockDim = config.block;
  native.dynamicSmemBytes = config.shared_bytes;
  native.stream = static_cast<cudaStream_t>(config.stream);
  native.attrs = &overlap;
  native.numAttrs = config.overlap_previous ? 1 : 0;
  const cudaError_t error = cudaLaunchKernelEx(&native, kernel, arguments...);
  const cudaError_t last = cudaGetLastError();
  return error != cudaSuccess ? error : last;
}

#define LLADA_DYNAMIC_SHARED(type, name)                        \
  extern __shared__ __align__(1024) unsigned char name##_raw[]; \
  type* name = reinterpret_cast<type*>(name##_raw)

#define LLADA_SHARED_ARRAY(type, name, count) __shared__ type name[count]

#endif

}  // namespace llada::cuda

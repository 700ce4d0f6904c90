#include "cuda/device.h"

#include "cuda/toolkit.h"

namespace llada::cuda {

int device_count(int* count) {
  *count = 0;
  return static_cast<int>(cudaGetDeviceCount(count));
}

int current_device(int* device) { return static_cast<int>(cudaGetDevice(device)); }

int device_facts(int device, DeviceFacts* facts) {
  cudaDeviceProp properties;
  if (const int code = static_cast<int>(cudaGetDeviceProperties(&properties, device))) return code;
  static_assert(sizeof facts->name == sizeof properties.name);
  for (unsigned i = 0; i < sizeof facts->name; ++i) facts->name[i] = properties.name[i];
  facts->compute_capability = 10 * properties.major + properties.minor;
  facts->multiprocessors = properties.multiProcessorCount;
  facts->memory = static_cast<std::int64_t>(properties.totalGlobalMem);
  return 0;
}

int driver_version(int* version) { return static_cast<int>(cudaDriverGetVersion(version)); }

int runtime_version(int* version) { return static_cast<int>(cudaRuntimeGetVersion(version)); }

int synchronize(void* stream) { return static_cast<int>(cudaStreamSynchronize(static_cast<cudaStream_t>(stream))); }

const char* error_name(int code) { return cudaGetErrorName(static_cast<cudaError_t>(code)); }

const char* error_text(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

}  // namespace llada::cuda

// Facts about the GPU machine, asked from the CUDA runtime. Every function that returns int returns its error code; 0
// is success. No CUDA header is needed to include this, no driver to link or call it.
#pragma once

#include <cstdint>

// Unlike launchers, these are called from the doors: visible in a source compiled with hidden names.
#pragma GCC visibility push(default)
namespace llada::cuda {

struct DeviceFacts {
  char name[256];
  int compute_capability;  // 10 * major + minor
  int multiprocessors;
  std::int64_t memory;  // bytes
};

int device_count(int* count);
int device_facts(int device, DeviceFacts* facts);
int current_device(int* device);

// As 1000 * major + 10 * minor; the driver's is 0 where there is none.
int driver_version(int* version);
int runtime_version(int* version);

// Waits for the stream; the code is that of the first kernel on it that failed.
int synchronize(void* stream);

const char* error_name(int code);  // "cudaErrorNoKernelImageForDevice"
const char* error_text(int code);

}  // namespace llada::cuda
#pragma GCC visibility pop

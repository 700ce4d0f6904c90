#include "cuda/launch_report.h"

#include <cstdlib>

#include "cuda/device.h"

namespace llada::cuda {
namespace {

// cudaError_t values, which CUDA keeps from release to release.
constexpr int kMemoryAllocation = 2, kInsufficientDriver = 35, kNoDevice = 100, kNoKernelImage = 209;
constexpr int kUnsupportedPtxVersion = 222;

bool synchronous() {
  static const bool on = [] {
    const char* value = std::getenv("LLADA_MOE_OPS_SYNC");
    return value != nullptr && std::string(value) == "1";
  }();
  return on;
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string device_name() {
  int device = 0;
  DeviceFacts facts{};
  if (current_device(&device) != 0 || device_facts(device, &facts) != 0) return "this GPU";
  return std::string(facts.name) + " (sm_" + std::to_string(facts.compute_capability) + ")";
}

std::string driver_too_old() {
  int driver = 0, runtime = 0;
  static_cast<void>(driver_version(&driver));
  static_cast<void>(runtime_version(&runtime));
  if (driver == 0) return "there is no NVIDIA driver on this machine";
  return "the driver serves CUDA " + version_text(driver) + ", this build needs CUDA " + version_text(runtime) +
         ": update the driver, or build with an older nvcc";
}

}  // namespace

const char* architectures_built() { return LLADA_CUDA_ARCHITECTURES; }

Backend backend_of(const ArrayView& first) { return {first.device, first.device_index, true}; }

std::string explain(int code) {
  const std::string what = std::string(error_name(code)) + ", " + error_text(code);
  switch (code) {
    case kNoKernelImage:
      return device_name() + " is not among the architectures built (" + architectures_built() +
             "): type `TORCH_CUDA_ARCH_LIST=<its architecture> pip install --no-build-isolation --force-reinstall "
             "--no-deps .`";
    case kInsufficientDriver:
    case kUnsupportedPtxVersion:
      return driver_too_old();
    case kNoDevice:
      return "no CUDA device is visible";
    case kMemoryAllocation:
      return "out of memory on the GPU (" + what + ")";
    default:
      return what;
  }
}

void report(const char* op, int code, const Stream& stream) {
  if (code == 0 && synchronous()) code = synchronize(stream.handle);
  if (code == 0) return;
  throw CudaError(std::string(op) + ": " + explain(code) +
                  (synchronous() ? "" : " (set LLADA_MOE_OPS_SYNC=1 if another kernel may be to blame)"));
}

}  // namespace llada::cuda

#include "cuda/select_path.h"

#include <atomic>

#include "cuda/device.h"
#include "cuda/launch_report.h"

namespace llada::cuda {
namespace {

// Asked once per device: properties cost the runtime a millisecond.
int compute_capability(int device) {
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices];
  if (device < kDevices && known[device] != 0) return known[device];
  DeviceFacts facts{};
  if (const int code = device_facts(device, &facts))
    throw CudaError("device " + std::to_string(device) + ": " + explain(code));
  if (device < kDevices) known[device] = facts.compute_capability;
  return facts.compute_capability;
}

}  // namespace

CudaPath active_path(const Backend& backend) {
  const int device = backend.device == DeviceKind::kCuda ? backend.device_index : 0;  // the emulator has one
  return select_path(compute_capability(device), forced_cuda_path());
}

}  // namespace llada::cuda

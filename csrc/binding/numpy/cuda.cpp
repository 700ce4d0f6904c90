// What the CUDA runtime says of this machine, for `llada-moe doctor` and for the diagnosis before an op's first use of
// a GPU. A machine without a driver is no error here.
#include <pybind11/stl.h>

#include <string>

#include "binding/numpy/arrays.h"
#ifdef LLADA_CUDA
#include "cuda/device.h"
#include "cuda/launch_report.h"
#endif

namespace llada {
namespace {

#ifdef LLADA_CUDA
py::dict device_dict(int device) {
  cuda::DeviceFacts facts{};
  py::dict result;
  if (const int code = cuda::device_facts(device, &facts)) {
    result["error"] = cuda::explain(code);
    return result;
  }
  result["name"] = facts.name;
  result["compute_capability"] = facts.compute_capability;
  result["multiprocessors"] = facts.multiprocessors;
  result["memory"] = facts.memory;
  return result;
}

py::object cuda_info() {
  int driver = 0, runtime = 0, count = 0;
  static_cast<void>(cuda::driver_version(&driver));
  static_cast<void>(cuda::runtime_version(&runtime));
  const int code = cuda::device_count(&count);
  py::list devices;
  for (int device = 0; device < count; ++device) devices.append(device_dict(device));
  py::dict info;
  info["driver"] = driver;
  info["runtime"] = runtime;
  info["devices"] = devices;
  info["error"] = code == 0 ? "" : cuda::explain(code);
  return info;
}
#else
py::object cuda_info() { return py::none(); }
#endif

}  // namespace

void bind_cuda(py::module_& module) {
  module.def(
      "cuda_info", &cuda_info,
      "None without CUDA in the build; else driver and runtime versions (1000 * major + 10 * minor; driver 0 where "
      "there is none), devices, and the runtime's error.");
}

}  // namespace llada

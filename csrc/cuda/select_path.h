// Which kernels an op that has both runs on a device: those of Hopper (X_sm90.cu) on compute capability 9.0, for which
// alone they are built, else those of Ampere (X_sm80.cu), which anything newer runs too.
#pragma once

#include <optional>
#include <string>

#include "common/check.h"
#include "common/isa.h"

namespace llada::cuda {

// `forced` is forced_cuda_path(). Throws ValueError when the device cannot run what is forced.
inline CudaPath select_path(int compute_capability, std::optional<CudaPath> forced) {
  constexpr int kHopper = 90;
  if (forced == CudaPath::kSm90a && compute_capability != kHopper) {
    throw ValueError("LLADA_MOE_OPS_ISA=sm90a needs a GPU of sm_90, got sm_" + std::to_string(compute_capability));
  }
  return forced.value_or(compute_capability == kHopper ? CudaPath::kSm90a : CudaPath::kSm80);
}

// The same for the device that a stream's op runs on.
CudaPath active_path(const Backend& backend);

}  // namespace llada::cuda

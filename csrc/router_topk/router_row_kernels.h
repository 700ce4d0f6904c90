// What is computed over all experts of a row: written once, compiled for each instruction set.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace llada {

// Values of experts lie in so many lanes or a multiple; the kernels set those past the last expert.
inline constexpr std::int64_t kExpertLanes = 64;

inline constexpr std::int64_t expert_lanes(std::int64_t num_experts) {
  return (num_experts + kExpertLanes - 1) / kExpertLanes * kExpertLanes;
}

struct RouterRowKernels {
  void (*softmax)(float* values, std::int64_t num_experts);
  void (*sigmoid)(float* values, std::int64_t num_experts);
  // Indices of the `count` largest in falling order, equal ones by lower index; `values` is used up. False, and nothing
  // done, where a value is NaN.
  bool (*select_largest)(float* values, std::int64_t num_experts, std::int64_t count, std::int32_t* largest);
};

const RouterRowKernels& select_router_row_kernels(Isa isa);

const RouterRowKernels& router_row_kernels_portable();
const RouterRowKernels& router_row_kernels_avx2();
const RouterRowKernels& router_row_kernels_avx512();

}  // namespace llada

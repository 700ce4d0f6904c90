// From what a launcher returns to an exception that names the op.
#pragma once

#include <stdexcept>
#include <string>

#include "common/check.h"

namespace llada::cuda {

// Where an op's kernels are queued: a cudaStream_t of the device its arrays are on.
struct Stream {
  void* handle = nullptr;
};

// A failed launch, or a failed kernel. Doors turn it into Python's RuntimeError.
struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The device of `first`, an op's first array: all the others must be there.
Backend backend_of(const ArrayView& first);

// Throws CudaError unless the launcher's code is 0. With LLADA_MOE_OPS_SYNC=1 it first waits for the kernels, so that a
// fault in one is reported at its op and not at whatever synchronises next (not possible while a graph is captured).
void report(const char* op, int code, const Stream& stream);

// What an error code means for the user, and what mends it.
std::string explain(int code);

// "sm_80, sm_90a, compute_80 (PTX)": what the kernels were compiled for.
const char* architectures_built();

}  // namespace llada::cuda

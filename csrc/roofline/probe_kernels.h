// What each instruction set provides to the probes.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace llada {

// Reads [data, data + bytes) once, from one end to the other; bytes is a multiple of 4096.
using ProbeRead = void (*)(const char* data, std::int64_t bytes);

enum class Arithmetic { kFp32, kBf16, kInt8 };  // fp32 and bf16 with fp32 sums, int8 with int32 sums

struct ProbeProducts {
  void (*run)(std::int64_t repeats);
  std::int64_t operations;  // of one repeat; a multiply-add is two
};

struct ProbeKernels {
  ProbeRead read;    // out of L1 and L2
  ProbeRead stream;  // out of what lies further away
  ProbeProducts fp32, bf16, int8;
};

const ProbeKernels& select_probe_kernels(Isa isa);

const ProbeKernels& probe_kernels_portable();
const ProbeKernels& probe_kernels_avx2();
const ProbeKernels& probe_kernels_avx512();
const ProbeKernels& probe_kernels_avx512fma();

}  // namespace llada

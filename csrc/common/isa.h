// Which instruction set the CPU kernels use: the best that the processor has, or the one forced by
// LLADA_MOE_OPS_ISA=portable|avx2|avx512|avx512fma; and which kernels a GPU is made to run,
// LLADA_MOE_OPS_ISA=sm80|sm90a.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace llada {

enum class Isa { kPortable = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Fma = 3 };

// kAvx512Fma differs from kAvx512 in products of bf16 alone.
inline bool is_avx512(Isa isa) { return isa == Isa::kAvx512 || isa == Isa::kAvx512Fma; }

const char* isa_name(Isa isa);

// Those this processor can run, best first; kPortable is always last.
// kAvx2 needs AVX2 + FMA; kAvx512 and kAvx512Fma need F, BW, DQ, VL, VNNI and BF16. kAvx512Fma multiplies bf16 by
// vfmadd, two for what one vdpbf16ps does: better where that takes more than twice as long, as on Intel's cores (an
// Emerald Rapids starts two vfmadd a cycle, and a vdpbf16ps every two cycles).
std::vector<Isa> available_isas();

// Whether a stream from memory is read fastest in whole cache lines: not on Zen 4, whose prefetchers then fall behind.
bool reads_whole_lines();

// Whether more lines can be on their way from memory to L2 than to L1: on Intel's cores.
bool fetches_into_l2();

// What a GPU runs: kernels of cp.async and mma.sync, or of TMA and wgmma.
enum class CudaPath { kSm80 = 0, kSm90a = 1 };

const char* cuda_path_name(CudaPath path);

// The one in force. Throws ValueError when the environment forces one that is unknown or unavailable.
Isa active_isa();

// Forced by force_isa, else by the environment.
std::optional<CudaPath> forced_cuda_path();

// Forces either (tests, benchmarks); an empty name returns to the choices above. Throws ValueError as active_isa does.
void force_isa(const std::string& name);

}  // namespace llada

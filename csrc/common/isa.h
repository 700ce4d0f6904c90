// Which instruction set the CPU kernels use: the best that the processor has, or the one forced by
// LLADA_MOE_OPS_ISA=portable|avx2|avx512.
#pragma once

#include <string>
#include <vector>

namespace llada {

enum class Isa { kPortable = 0, kAvx2 = 1, kAvx512 = 2 };

const char* isa_name(Isa isa);

// Those this processor can run, best first; kPortable is always last.
// kAvx2 needs AVX2 + FMA; kAvx512 needs F, BW, DQ, VL, VNNI and BF16.
std::vector<Isa> available_isas();

// The one in force. Throws ValueError when the environment forces one that is unknown or unavailable.
Isa active_isa();

// Forces one (tests, benchmarks); an empty name returns to the choice above. Throws ValueError as active_isa does.
void force_isa(const std::string& name);

}  // namespace llada

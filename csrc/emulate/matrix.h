// ldmatrix and mma.sync of a warp, with the fragment layouts of the PTX manual.
#pragma once

#include <cstdint>

#include "emulate/types.h"
#include "emulate/where.h"

namespace llada::emulate {

enum class Float16 { kBFloat16, kHalf };

// Each lane has read one 16-byte row: lanes 8 i … 8 i + 7 those of matrix i. result: `matrices` registers.
void load_matrix(int matrices, bool transposed, const uint4& row, std::uint32_t* result, const Where& where);

// The reverse: the row (lanes below 8 * matrices) that this lane has to store.
uint4 store_matrix(int matrices, bool transposed, const std::uint32_t* values, const Where& where);

// Fails unless the row is aligned to 16 bytes.
void check_row(const void* row, const Where& where);

// d (16 x 8) += a (16 x 16) * b (16 x 8): registers of this lane.
void multiply_m16n8k16(Float16 type, float* d, const std::uint32_t* a, const std::uint32_t* b, const Where& where);

float widen(Float16 type, std::uint16_t bits);

}  // namespace llada::emulate

// Packing of one sequence's keys and values of one head for the tile (layouts in attention_tile.h).
#pragma once

#include <cstdint>

#include "common/array_view.h"

namespace llada {

// keys[panel][depth lanes][32]: `count` rows from source, row_stride elements apart; missing columns become zeros.
void pack_keys(DType dtype, const void* source, std::int64_t row_stride, std::int64_t count, std::int64_t depth,
               std::uint32_t* keys);

// values[depth panel][key_lanes][32]; missing components and keys become zeros.
void pack_values(DType dtype, const void* source, std::int64_t row_stride, std::int64_t count, std::int64_t depth,
                 std::int64_t key_lanes, std::uint32_t* values);

}  // namespace llada

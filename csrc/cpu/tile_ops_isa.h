// What each instruction set provides to tile_ops.cpp.
#pragma once

#include "cpu/tile_ops.h"

namespace llada {

const TileOps& tile_ops_portable(DType dtype);
const TileOps& tile_ops_avx2(DType dtype);
const TileOps& tile_ops_avx512(DType dtype);

}  // namespace llada

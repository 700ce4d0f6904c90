#include "cpu/vector_avx512.h"
// The vectors come first.
#include "cpu/tile_ops_impl.h"
#include "cpu/tile_ops_isa.h"

namespace llada {

const TileOps& tile_ops_avx512(DType dtype) { return dtype == DType::kBFloat16 ? kTileOps<bfloat16> : kTileOps<float>; }

}  // namespace llada

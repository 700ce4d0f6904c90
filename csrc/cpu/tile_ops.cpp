#include "cpu/tile_ops.h"

#include "cpu/tile_ops_isa.h"

namespace llada {

const TileOps& select_tile_ops(DType dtype, Isa isa) {
#if defined(__x86_64__)
  if (is_avx512(isa)) return tile_ops_avx512(dtype);
  if (isa == Isa::kAvx2) return tile_ops_avx2(dtype);
#endif
  static_cast<void>(isa);
  return tile_ops_portable(dtype);
}

}  // namespace llada

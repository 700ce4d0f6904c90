// The vector operations of the loops written once for every instruction set (attention, tile_ops, panel_statistics), 16
// floats wide. Each vector_*.h defines the same `Vector`; a source file includes exactly one. Anonymous and
// force-inlined: no copy may leak to another instruction set.
#pragma once

#include "cpu/vector_avx512_impl.h"

namespace llada {
namespace {

using Vector = Avx512Vector<false>;

}  // namespace
}  // namespace llada

// `Vector` of vector_avx512.h, with products of bf16 by vfmadd.
#pragma once

#include "cpu/vector_avx512_impl.h"

namespace llada {
namespace {

using Vector = Avx512Vector<true>;

}  // namespace
}  // namespace llada

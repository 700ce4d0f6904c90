// Packed weights (cpu/panel_format.h) as arguments of this door: arrays made by its pack_* functions, or mapped from a
// file of them.
#pragma once

#include "binding/numpy/arrays.h"
#include "cpu/panel_format.h"

namespace llada {

// Panels are counted by dimension `panel_dim` of the array; the core checks the rest of its shape.
Input packed_input(const char* op, const char* argument, py::handle array, int panel_dim);

// What the caller says that the panels hold; checked before room is made for a result of that size.
void check_columns(const char* op, const char* argument, std::int64_t columns, std::int64_t panels,
                   int panel_columns = kPanelColumns);

}  // namespace llada

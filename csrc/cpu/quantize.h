// Weights into int8 and int4 panels (panel_format.h). Runs once, at load.
#pragma once

#include <cstdint>

#include "cpu/panel_format.h"

namespace llada {

// rows[c] is column c's row of k elements of `dtype` (fp32 or bf16), or null for a column of zeros.
//
// int8: the scale is the column's largest magnitude / 127. int4: with the scale, the largest multiplier just reaches
// the column's lowest and highest value, and a group's multiplier is the one of least squared error.
void quantize_panel(PanelFormat format, DType dtype, const void* const (&rows)[kPanelColumns], std::int64_t k,
                    std::uint32_t* panel);

}  // namespace llada

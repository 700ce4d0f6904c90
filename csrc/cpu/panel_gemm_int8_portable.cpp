// rows of signed bytes x panel of unsigned ones in plain C++, and the expansion of int4 panels.
#include <cstring>

#include "cpu/panel_gemm_isa.h"

namespace llada {

void panel_gemm_int8_portable(const PanelGemmArgs& args) {
  const std::uint32_t* scales = args.rows + args.lanes * args.num_rows;
  const auto* column_scales = reinterpret_cast<const float*>(args.panel + args.lanes * kPanelColumns);
  for (int r = 0; r < args.num_rows; ++r) {
    std::int32_t sums[kPanelColumns] = {};
    for (std::int64_t lane = 0; lane < args.lanes; ++lane) {
      std::int8_t values[4];
      std::uint8_t weights[kPanelColumns][4];
      std::memcpy(values, args.rows + lane * args.num_rows + r, sizeof values);
      std::memcpy(weights, args.panel + lane * kPanelColumns, sizeof weights);
      for (int c = 0; c < kPanelColumns; ++c) {
        for (int j = 0; j < 4; ++j) sums[c] += (weights[c][j] - 128) * values[j];
      }
    }
    float row_scale;
    std::memcpy(&row_scale, scales + r, sizeof row_scale);
    float* out = args.out + r * args.out_stride;
    for (int c = 0; c < kPanelColumns; ++c) out[c] = static_cast<float>(sums[c]) * row_scale * column_scales[c];
  }
}

void expand_int4_portable(const std::uint32_t* panel, std::int64_t lanes, std::uint32_t* expanded) {
  for (std::int64_t block = 0; block < lanes / kInt4BlockLanes; ++block, panel += kInt4BlockWords) {
    const auto* multipliers = reinterpret_cast<const std::uint8_t*>(panel);
    for (int lane = 0; lane < kInt4BlockLanes; ++lane, expanded += kPanelColumns) {
      const std::uint32_t* nibbles = panel + 16 + lane / 2 * kPanelColumns;
      for (int c = 0; c < kPanelColumns; ++c) {
        const std::uint32_t digits = nibbles[c] >> (lane % 2 * 4) & 0x0f0f0f0fu;
        const std::uint32_t multiplier = multipliers[lane / 8 * kPanelColumns + c];
        expanded[c] = digits * multiplier + (128 - 8 * multiplier) * 0x01010101u;  // no byte carries over
      }
    }
  }
  std::memcpy(expanded, panel, kPanelColumns * sizeof(std::uint32_t));
}

}  // namespace llada

// rows [lanes][num_rows] x panel [lanes][32] in plain C++: two rows at a time, 32 accumulators each, which the
// compiler keeps in whatever vectors the target has.
#include <bit>

#include "cpu/panel_gemm_isa.h"

namespace llada {
namespace {

struct Fp32 {
  static constexpr int kValues = 1;
  static float value(std::uint32_t lane, int) { return std::bit_cast<float>(lane); }
};

struct Bf16 {
  static constexpr int kValues = 2;
  static float value(std::uint32_t lane, int half) {
    return std::bit_cast<float>(half == 0 ? lane << 16 : lane & 0xffff0000u);
  }
};

template <class Element, int Rows>
void row_block(const PanelGemmArgs& args, int first_row) {
  std::int64_t begin = 0;
  do {
    const std::int64_t end = begin + kLaneBlock < args.lanes ? begin + kLaneBlock : args.lanes;
    float sums[Rows][kPanelColumns] = {};
    for (std::int64_t lane = begin; lane < end; ++lane) {
      const std::uint32_t* weights = args.panel + lane * kPanelColumns;
      const std::uint32_t* values = args.rows + lane * args.num_rows + first_row;
      for (int half = 0; half < Element::kValues; ++half) {
        for (int r = 0; r < Rows; ++r) {
          const float value = Element::value(values[r], half);
          for (int c = 0; c < kPanelColumns; ++c) sums[r][c] += value * Element::value(weights[c], half);
        }
      }
    }
    for (int r = 0; r < Rows; ++r) {
      float* out = args.out + (first_row + r) * args.out_stride;
      for (int c = 0; c < kPanelColumns; ++c) out[c] = begin == 0 ? sums[r][c] : out[c] + sums[r][c];
    }
    begin = end;
  } while (begin < args.lanes);
}

template <class Element>
void panel_gemm(const PanelGemmArgs& args) {
  int row = 0;
  for (; row + 2 <= args.num_rows; row += 2) row_block<Element, 2>(args, row);
  if (row < args.num_rows) row_block<Element, 1>(args, row);
}

}  // namespace

void panel_gemm_fp32_portable(const PanelGemmArgs& args) { panel_gemm<Fp32>(args); }
void panel_gemm_bf16_portable(const PanelGemmArgs& args) { panel_gemm<Bf16>(args); }

}  // namespace llada

#include "moe_mlp/moe_mlp.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "common/check.h"
#include "cpu/panel_product.h"
#include "cpu/tile_ops.h"
#include "permute/expert_sort.h"

namespace llada {
namespace {

constexpr const char* kOp = "moe_mlp";
constexpr std::int64_t kScratchWords = 1 << 24;  // 64 MB for the largest buffer

void check(const MoeMlpArgs& args) {
  const ArrayView& x = args.x;
  Check(kOp, "x", x).cpu().dtype({DType::kFloat32, DType::kBFloat16}).shape({kAnySize, kAnySize}).last_dim_contiguous();
  const std::int64_t tokens = x.size(0), hidden = x.size(1), intermediate = args.intermediate;
  Check(kOp, "experts", args.experts).cpu().dtype({DType::kInt32}).shape({tokens, kAnySize}).contiguous();
  Check(kOp, "weights", args.weights).cpu().dtype({DType::kFloat32}).shape({tokens, args.experts.size(1)}).contiguous();
  require(kOp, "gate_up_proj", args.gate_up.rank > 0, "an array", "a scalar");
  const std::int64_t experts = args.gate_up.size(0);
  if (!args.packed) {
    Check(kOp, "gate_up_proj", args.gate_up).cpu().dtype({x.dtype}).shape({experts, 2 * intermediate, hidden});
    Check(kOp, "gate_up_proj", args.gate_up).last_dim_contiguous();
    Check(kOp, "down_proj", args.down).cpu().dtype({x.dtype}).shape({experts, hidden, intermediate});
    Check(kOp, "down_proj", args.down).last_dim_contiguous();
  }
  Check(kOp, "y", args.y).cpu().dtype({x.dtype}).shape({tokens, hidden}).contiguous();
  require(kOp, "experts", args.experts.elements() <= std::numeric_limits<std::int32_t>::max(),
          "of fewer than 2^31 assignments", std::to_string(args.experts.elements()));
  check_range(kOp, "experts", args.experts.as<const std::int32_t>(), args.experts.elements(), experts);
}

// Assignments sorted by expert, then by token.
struct Order {
  std::vector<std::int32_t> offsets;     // [E + 2]
  std::vector<std::int32_t> assignment;  // token * k + slot of each sorted row
  std::vector<std::int32_t> token;       // of each sorted row

  void sort(const std::int32_t* experts, std::int64_t tokens, std::int64_t slots, std::int64_t num_experts) {
    offsets.resize(num_experts + 2);
    assignment.resize(tokens * slots);
    token.resize(tokens * slots);
    sort_by_expert(experts, tokens * slots, num_experts, offsets.data(), assignment.data());
    for (std::int64_t row = 0; row < tokens * slots; ++row)
      token[row] = assignment[row] / static_cast<std::int32_t>(slots);
  }
};

// The tokens [first, first + tokens), few enough for the scratch.
void run_tokens(const MoeMlpArgs& args, const PanelWeights& gate_up, const PanelWeights& down, std::int64_t first,
                std::int64_t tokens) {
  thread_local Order order;
  thread_local std::vector<RowChunk> chunks;
  const DType dtype = args.x.dtype;
  const std::int64_t slots = args.experts.size(1), hidden = args.x.size(1), num_experts = args.gate_up.size(0);
  const auto* experts = args.experts.as<const std::int32_t>() + first * slots;
  const TileOps& ops = select_tile_ops(dtype, active_isa());

  order.sort(experts, tokens, slots, num_experts);
  cut_rows(order.offsets.data(), num_experts, chunks);
  const std::int64_t rows = order.offsets[num_experts];
  auto* packed_x = thread_scratch<struct XScratch, std::uint32_t>(rows * gate_up.words_per_row());
  auto* packed_hidden = thread_scratch<struct HiddenScratch, std::uint32_t>(rows * down.words_per_row());
  auto* outputs = thread_scratch<struct OutputScratch, float>(tokens * slots * hidden);
  const std::int32_t* assignment = order.assignment.data();

  const char* x = args.x.as<const char>() + first * args.x.stride(0) * dtype_bytes(dtype);
  pack_chunks(gate_up, {dtype, x, args.x.stride(0), order.token.data()}, chunks, packed_x);

  if (is_quantized(down.format)) {
    // A row's scale needs all of the row: the intermediate is written whole, as published, and then quantised.
    const std::int64_t intermediate = gate_up.columns, bytes = dtype_bytes(dtype);
    auto* plain = thread_scratch<struct PlainScratch, char>(rows * intermediate * bytes);
    run_product({gate_up, packed_x, chunks}, [&](const RowChunk& chunk, std::int64_t panel, float* tile) {
      ops.swiglu(tile, chunk.num_rows);
      const std::int64_t first = chunk.first_row * intermediate + panel * gate_up.panel_columns();
      ops.store({tile, chunk.num_rows, gate_up.columns_of(panel), nullptr, plain + first * bytes, intermediate});
    });
    pack_chunks(down, {dtype, plain, intermediate, nullptr}, chunks, packed_hidden);
  } else {
    const std::int64_t panel_lanes = lane_count(dtype, gate_up.panel_columns());
    run_product({gate_up, packed_x, chunks}, [&](const RowChunk& chunk, std::int64_t panel, float* tile) {
      ops.swiglu(tile, chunk.num_rows);
      // A last panel past I holds zeros, so the padding of the last lane is zero too.
      const std::int64_t lane = panel * panel_lanes, lanes = std::min(panel_lanes, down.lanes() - lane);
      ops.pack(tile, chunk.num_rows, static_cast<int>(lanes),
               packed_hidden + chunk.first_row * down.lanes() + lane * chunk.num_rows);
    });
  }

  run_product({down, packed_hidden, chunks}, [&](const RowChunk& chunk, std::int64_t panel, float* tile) {
    const int columns = down.columns_of(panel);
    for (int r = 0; r < chunk.num_rows; ++r) {
      float* out = outputs + assignment[chunk.first_row + r] * hidden + panel * kPanelColumns;
      std::copy_n(tile + r * kPanelColumns, columns, out);
    }
  });

  parallel_for(0, tokens, grain_of(slots * hidden), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      ops.combine({outputs + t * slots * hidden, args.weights.as<const float>() + (first + t) * slots,
                   experts + t * slots, static_cast<int>(slots), static_cast<std::int32_t>(num_experts), hidden,
                   args.y.as<char>() + (first + t) * hidden * dtype_bytes(dtype)});
    }
  });
}

}  // namespace

void moe_mlp(const MoeMlpArgs& args) {
  check(args);
  const std::int64_t tokens = args.x.size(0), hidden = args.x.size(1), intermediate = args.intermediate;
  const std::int64_t experts = args.gate_up.size(0);
  const DType dtype = args.x.dtype;
  const PanelWeights gate_up =
      args.packed ? packed_weights(kOp, "gate_up_proj", args.gate_up, experts, intermediate, hidden, true, dtype)
                  : plain_weights(args.gate_up, true);
  const PanelWeights down =
      args.packed ? packed_weights(kOp, "down_proj", args.down, experts, hidden, intermediate, false, dtype)
                  : plain_weights(args.down, false);
  const std::int64_t words = std::max<std::int64_t>(1, args.experts.size(1) * std::max(hidden, intermediate));
  const std::int64_t step = std::max<std::int64_t>(1, kScratchWords / words);
  for (std::int64_t first = 0; first < tokens; first += step) {
    run_tokens(args, gate_up, down, first, std::min(step, tokens - first));
  }
}

void pack_expert(const PackExpertArgs& args) {
  constexpr const char* op = "pack_experts";
  Check(op, "down", args.down).shape({args.gate.size(1), args.gate.size(0)});
  pack_pair(op, args.gate, args.up, args.gate_up_packed);
  pack_weights(op, args.down, args.down_packed);
}

}  // namespace llada

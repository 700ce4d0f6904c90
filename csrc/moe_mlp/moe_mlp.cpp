#include "moe_mlp/moe_mlp.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "common/parallel.h"
#include "cpu/panel_product.h"
#include "cpu/tile_ops.h"
#include "permute/expert_sort.h"

namespace llada {
namespace {

constexpr const char* kOp = "moe_mlp";
constexpr std::int64_t kScratchWords = 1 << 24;  // 64 MB for the largest buffer
// So many outputs of the second product would leave the caches before they are combined (16 MB), and so many more are
// not worth writing (32 MB).
constexpr std::int64_t kStreamedOutputs = 1 << 22, kSummedOutputs = 1 << 23;
constexpr std::int64_t kSumBytes = 1 << 18;  // of sums beside panels and rows in L2
constexpr std::int64_t kColumnItemsPerThread = 8;

// The experts of all tokens [T][k], in range, as int32.
const std::int32_t* checked_experts(const MoeMlpArgs& args) {
  const std::int64_t count = args.experts.elements(), highest = args.gate_up.size(0);
  const auto* narrow = args.experts.as<const std::int32_t>();
  if (args.experts.dtype == DType::kInt32) {
    check_range(kOp, "experts", narrow, count, highest);
    return narrow;
  }
  const auto* wide = args.experts.as<const std::int64_t>();
  check_range(kOp, "experts", wide, count, highest);
  auto* narrowed = thread_scratch<struct ExpertScratch, std::int32_t>(count);
  std::transform(wide, wide + count, narrowed, [](std::int64_t expert) { return static_cast<std::int32_t>(expert); });
  return narrowed;
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

// Each token's slots in the order of their experts, those of no expert left out.
struct SlotOrder {
  std::vector<std::int32_t> slots;   // [T][k]
  std::vector<std::int32_t> counts;  // [T]

  void fill(const Order& order, std::int64_t rows, std::int64_t tokens, std::int64_t num_slots) {
    slots.resize(tokens * num_slots);
    counts.assign(tokens, 0);
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t first = order.token[row] * num_slots;
      slots[first + counts[order.token[row]]++] = order.assignment[row] - static_cast<std::int32_t>(first);
    }
  }
};

// One pass over few enough tokens for the scratch: its phases, each a body over independent items.
class Pass {
 public:
  // `experts` are those of all tokens.
  Pass(const MoeMlpArgs& args, const std::int32_t* experts, const PanelWeights& gate_up, const PanelWeights& down,
       std::int64_t first, std::int64_t tokens)
      : args_(args),
        experts_(experts + first * args.experts.size(1)),
        gate_up_(gate_up),
        down_(down),
        first_(first),
        tokens_(tokens),
        hidden_(args.x.size(1)),
        slots_(args.experts.size(1)),
        dtype_(args.x.dtype),
        ops_(select_tile_ops(dtype_, active_isa())) {
    const std::int64_t num_experts = args.gate_up.size(0);
    order_.sort(experts_, tokens, slots_, num_experts);
    cut_rows(order_.offsets.data(), num_experts, chunks_);
    const std::int64_t rows = order_.offsets[num_experts];
    packed_x_ = thread_scratch<struct XScratch, std::uint32_t>(rows * gate_up.words_per_row());
    packed_hidden_ = thread_scratch<struct HiddenScratch, std::uint32_t>(rows * down.words_per_row());
    plan_sums(rows);
    if (is_quantized(gate_up.format)) {
      byte_x_ = {thread_scratch<struct ByteXScratch, std::int8_t>(tokens * gate_up.lanes() * 4),
                 thread_scratch<struct ScalingScratch, QuantizedRow>(tokens)};
    }
    if (is_quantized(down.format)) {
      plain_hidden_ = thread_scratch<struct PlainScratch, char>(rows * gate_up.columns * dtype_bytes(dtype_));
    }
  }

  void run() {
    const auto chunks = static_cast<std::int64_t>(chunks_.size());
    const ProductPlan first(chunks_, gate_up_.panels(), num_threads());
    const ProductPlan second(chunks_, down_.panels(), num_threads());
    const std::int64_t threads = useful_threads(gate_up_.panels(), chunks, gate_up_.lanes());
    const bool byte_x = is_quantized(gate_up_.format), byte_hidden = is_quantized(down_.format);
    const bool summing = panels_of_sums_ > 0;
    const std::int64_t columns = summing ? (down_.panels() + panels_of_sums_ - 1) / panels_of_sums_ : 0;
    using Item = std::int64_t;
    parallel_phases(threads, {{byte_x ? tokens_ : 0, 1, [&](Item begin, Item end) { quantize_x(begin, end); }},
                              {chunks, 1, [&](Item begin, Item end) { gather(begin, end); }},
                              {first.items(), 1,
                               [&](Item begin, Item end) {
                                 run_items({gate_up_, packed_x_, chunks_}, first, begin, end,
                                           [&](auto&&... tile) { finish_gate_up(tile...); });
                               }},
                              {byte_hidden ? chunks : 0, 1, [&](Item begin, Item end) { quantize_hidden(begin, end); }},
                              {columns, 1, [&](Item begin, Item end) { sum_columns(begin, end); }},
                              {summing ? 0 : second.items(), 1,
                               [&](Item begin, Item end) {
                                 run_items({down_, packed_hidden_, chunks_}, second, begin, end,
                                           [&](auto&&... tile) { finish_down(tile...); });
                                 if (streamed_) ops_.end_stream();
                               }},
                              {summing ? 0 : tokens_, 4, [&](Item begin, Item end) { combine(begin, end); }}});
  }

 private:
  // Many outputs are added up as they come, token by token: a thread that owns some columns of all experts keeps their
  // sums in L2, and nothing of [T, k, H] goes through memory. Few are stored, which lets a thread read the experts'
  // weights as one stream. Either way a token's experts are added in rising order.
  void plan_sums(std::int64_t rows) {
    const std::int64_t outputs = tokens_ * slots_ * hidden_, panels = down_.panels();
    const std::int64_t items = kColumnItemsPerThread * num_threads();
    const bool whole_panels = hidden_ % kPanelColumns == 0;
    if (outputs >= kSummedOutputs && whole_panels && panels >= items / 2) {
      const std::int64_t fitting = kSumBytes / (tokens_ * kPanelColumns * static_cast<std::int64_t>(sizeof(float)));
      panels_of_sums_ = std::max<std::int64_t>(1, std::min(fitting, panels / items));
      return;
    }
    streamed_ = outputs >= kStreamedOutputs && whole_panels;
    outputs_ = thread_scratch<struct OutputScratch, float>(outputs);
    slot_order_.fill(order_, rows, tokens_, slots_);
  }

  RowSource x() const {
    const std::int64_t stride = args_.x.stride(0);
    return {dtype_, args_.x.as<const char>() + first_ * stride * dtype_bytes(dtype_), stride, nullptr};
  }

  // Each token once, whatever the number of its experts.
  void quantize_x(std::int64_t begin, std::int64_t end) const { quantize_rows(gate_up_, x(), begin, end, byte_x_); }

  void gather(std::int64_t begin, std::int64_t end) const {
    if (!is_quantized(gate_up_.format)) {
      RowSource rows = x();
      rows.index_of_row = order_.token.data();
      return pack_chunks(gate_up_, rows, chunks_, begin, end, packed_x_);
    }
    for (std::int64_t c = begin; c < end; ++c) {
      std::uint32_t* rows = packed_x_ + chunks_[c].first_row * gate_up_.words_per_row();
      pack_bytes(gate_up_, byte_x_, order_.token.data(), chunks_[c], rows);
    }
  }

  // SwiGLU, and the rows of the second product. Quantised rows need a scale of the whole row: then the intermediate is
  // written plainly, as published, for the next phase.
  void finish_gate_up(const RowChunk& chunk, std::int64_t panel, float* tile) const {
    ops_.swiglu(tile, chunk.num_rows);
    if (is_quantized(down_.format)) {
      const std::int64_t stride = gate_up_.columns, first = chunk.first_row * stride + panel * gate_up_.panel_columns();
      ops_.store({tile, chunk.num_rows, gate_up_.columns_of(panel), nullptr,
                  plain_hidden_ + first * dtype_bytes(dtype_), stride});
      return;
    }
    // A last panel past I holds zeros, so the padding of the last lane is zero too.
    const std::int64_t panel_lanes = lane_count(dtype_, gate_up_.panel_columns()), lane = panel * panel_lanes;
    ops_.pack(tile, chunk.num_rows, static_cast<int>(std::min(panel_lanes, down_.lanes() - lane)),
              packed_hidden_ + chunk.first_row * down_.lanes() + lane * chunk.num_rows);
  }

  void quantize_hidden(std::int64_t begin, std::int64_t end) const {
    pack_chunks(down_, {dtype_, plain_hidden_, gate_up_.columns, nullptr}, chunks_, begin, end, packed_hidden_);
  }

  const float* routing_weights() const { return args_.weights.as<const float>() + first_ * slots_; }
  char* y(std::int64_t token) const { return args_.y.as<char>() + (first_ + token) * hidden_ * dtype_bytes(dtype_); }

  // y in the columns of items [begin, end), summed over all experts.
  void sum_columns(std::int64_t begin, std::int64_t end) const {
    const std::int64_t size = tokens_ * kPanelColumns;
    auto* sums = thread_scratch<struct SumScratch, float>(panels_of_sums_ * size);
    for (std::int64_t item = begin; item < end; ++item) {
      const std::int64_t first = item * panels_of_sums_, last = std::min(first + panels_of_sums_, down_.panels());
      std::fill_n(sums, (last - first) * size, 0.0f);
      run_columns(
          {down_, packed_hidden_, chunks_}, first, last,
          [&](const RowChunk& chunk, std::int64_t panel, const float* tile) {
            ops_.add({tile, chunk.num_rows, order_.token.data() + chunk.first_row,
                      order_.assignment.data() + chunk.first_row, routing_weights(), sums + (panel - first) * size});
          });
      for (std::int64_t token = 0; token < tokens_; token += kMaxPanelRows) {
        const int rows = static_cast<int>(std::min<std::int64_t>(kMaxPanelRows, tokens_ - token));
        for (std::int64_t panel = first; panel < last; ++panel) {
          ops_.store({sums + (panel - first) * size + token * kPanelColumns, rows, kPanelColumns, nullptr,
                      y(token) + panel * kPanelColumns * dtype_bytes(dtype_), hidden_});
        }
      }
    }
  }

  void finish_down(const RowChunk& chunk, std::int64_t panel, const float* tile) const {
    ops_.scatter({tile, chunk.num_rows, down_.columns_of(panel), order_.assignment.data() + chunk.first_row,
                  outputs_ + panel * kPanelColumns, hidden_, streamed_});
  }

  void combine(std::int64_t begin, std::int64_t end) const {
    for (std::int64_t t = begin; t < end; ++t) {
      ops_.combine({outputs_ + t * slots_ * hidden_, slot_order_.slots.data() + t * slots_,
                    routing_weights() + t * slots_, slot_order_.counts[t], hidden_, y(t)});
    }
  }

  const MoeMlpArgs& args_;
  const std::int32_t* experts_;  // of this pass
  const PanelWeights &gate_up_, &down_;
  const std::int64_t first_, tokens_, hidden_, slots_;
  const DType dtype_;
  const TileOps& ops_;
  Order order_;
  SlotOrder slot_order_;
  std::vector<RowChunk> chunks_;
  std::uint32_t *packed_x_, *packed_hidden_;
  std::int64_t panels_of_sums_ = 0;  // added up at a time; 0: outputs are stored
  float* outputs_ = nullptr;         // [T, k, H]
  bool streamed_ = false;            // outputs_ is written past the caches
  ByteRows byte_x_{};                // where gate_up is quantised
  char* plain_hidden_ = nullptr;     // the intermediate [rows, I], where down is quantised
};

}  // namespace

void check_moe_mlp(const MoeMlpArgs& args, const Backend& backend) {
  const ArrayView &x = args.x, &gate_up = args.gate_up, &down = args.down;
  Check(kOp, "x", x).on(backend).floating(backend).shape({kAnySize, kAnySize}).last_dim_contiguous();
  const std::int64_t tokens = x.size(0), hidden = x.size(1), intermediate = args.intermediate;
  Check(kOp, "experts", args.experts).on(backend).dtype({DType::kInt32, DType::kInt64}).shape({tokens, kAnySize});
  Check(kOp, "experts", args.experts).contiguous();
  const std::int64_t slots = args.experts.size(1);
  Check(kOp, "weights", args.weights).on(backend).dtype({DType::kFloat32}).shape({tokens, slots}).contiguous();
  require(kOp, "gate_up_proj", gate_up.rank > 0, "an array", "a scalar");
  const std::int64_t experts = gate_up.size(0);
  if (!args.packed) {
    Check(kOp, "gate_up_proj", gate_up).on(backend).dtype({x.dtype}).shape({experts, 2 * intermediate, hidden});
    Check(kOp, "gate_up_proj", gate_up).last_dim_contiguous();
    Check(kOp, "down_proj", down).on(backend).dtype({x.dtype}).shape({experts, hidden, intermediate});
    Check(kOp, "down_proj", down).last_dim_contiguous();
  }
  Check(kOp, "y", args.y).on(backend).dtype({x.dtype}).shape({tokens, hidden}).contiguous();
  require(kOp, "experts", args.experts.elements() <= std::numeric_limits<std::int32_t>::max(),
          "of fewer than 2^31 assignments", std::to_string(args.experts.elements()));
}

void moe_mlp(const MoeMlpArgs& args) {
  check_moe_mlp(args, kCpuBackend);
  const std::int32_t* chosen = checked_experts(args);
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
    Pass(args, chosen, gate_up, down, first, std::min(step, tokens - first)).run();
  }
}

void pack_expert(const PackExpertArgs& args) {
  constexpr const char* op = "pack_experts";
  Check(op, "down", args.down).shape({args.gate.size(1), args.gate.size(0)});
  pack_pair(op, args.gate, args.up, args.gate_up_packed);
  pack_weights(op, args.down, args.down_packed);
}

}  // namespace llada

#include "cpu/panel_weights.h"

#include <algorithm>
#include <array>

#include "common/check.h"
#include "common/parallel.h"
#include "cpu/quantize.h"

namespace llada {
namespace {

constexpr int kHalf = kPanelColumns / 2;
constexpr std::int64_t kLongestInt8Sum = 1 << 16;             // of products up to 255 * 127 in 32 bits
constexpr std::int64_t kLargestSize = std::int64_t{1} << 40;  // what is computed from sizes fits 64 bits

std::int64_t element_bytes(PanelFormat format) { return format == PanelFormat::kFloat32 ? 4 : 2; }

// Packs panel `index` of one matrix, or of two that share it, from plain rows of `dtype`.
void pack_panel_of(const std::array<const ArrayView*, 2>& parts, PanelFormat format, std::int64_t index,
                   std::uint32_t* out) {
  const bool paired = parts[1] != nullptr;
  const ArrayView& first = *parts[0];
  const std::int64_t share = paired ? kHalf : kPanelColumns, bytes = dtype_bytes(first.dtype), k = first.size(1);
  const int count = static_cast<int>(std::min(share, first.size(0) - index * share));
  const void* rows[kPanelColumns] = {};
  for (int part = 0; part < (paired ? 2 : 1); ++part) {
    for (int c = 0; c < count; ++c) {
      rows[part * kHalf + c] = parts[part]->as<char>() + (index * share + c) * parts[part]->stride(0) * bytes;
    }
  }
  if (is_quantized(format)) return quantize_panel(format, first.dtype, rows, k, out);
  if (!paired) return pack_panel(first.dtype, rows[0], first.stride(0), count, k, out);
  for (int part = 0; part < 2; ++part) {
    pack_half_panel(first.dtype, rows[part * kHalf], parts[part]->stride(0), count, k, out + part * kHalf);
  }
}

void pack_parts(const char* op, const std::array<const ArrayView*, 2>& parts, const ArrayView& packed) {
  const ArrayView& first = *parts[0];
  const bool paired = parts[1] != nullptr;
  const PanelWeights target =
      packed_weights(op, "packed", packed, -1, first.size(0), first.size(1), paired, first.dtype);
  const std::int64_t work = target.scratch_size() * (is_quantized(target.format) ? 16 : 1);
  parallel_for(0, target.panels(), grain_of(work), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t panel = begin; panel < end; ++panel) {
      pack_panel_of(parts, target.format, panel, packed.as<std::uint32_t>() + panel * target.panel_size());
    }
  });
}

void check_plain(const char* op, const char* argument, const ArrayView& view) {
  Check(op, argument, view).cpu().dtype({DType::kFloat32, DType::kBFloat16}).shape({kAnySize, kAnySize});
  Check(op, argument, view).last_dim_contiguous();
}

}  // namespace

int PanelWeights::columns_of(std::int64_t panel) const {
  return static_cast<int>(std::min<std::int64_t>(panel_columns(), columns - panel * panel_columns()));
}

const std::uint32_t* PanelWeights::panel(std::int64_t group, std::int64_t index, std::uint32_t* scratch) const {
  if (packed) {
    const auto* stored = reinterpret_cast<const std::uint32_t*>(data) + (group * panels() + index) * panel_size();
    if (ready()) return stored;
    expand_int4(stored, lanes(), scratch);
    return scratch;
  }
  const DType dtype = format == PanelFormat::kFloat32 ? DType::kFloat32 : DType::kBFloat16;
  const std::int64_t bytes = element_bytes(format);
  const char* first = data + (group * group_stride + index * panel_columns() * row_stride) * bytes;
  const int count = columns_of(index);
  if (paired) {
    pack_half_panel(dtype, first, row_stride, count, k, scratch);
    pack_half_panel(dtype, first + columns * row_stride * bytes, row_stride, count, k, scratch + kHalf);
  } else {
    pack_panel(dtype, first, row_stride, count, k, scratch);
  }
  return scratch;
}

const char* PanelWeights::stretch(std::int64_t group, std::int64_t index) const {
  if (packed) return data + (group * panels() + index) * panel_size() * 4;
  return data + (group * group_stride + index * panel_columns() * row_stride) * element_bytes(format);
}

PanelWeights plain_weights(const ArrayView& view, bool paired) {
  const int rows = view.rank - 2;
  PanelWeights weights{.format = panel_format(view.dtype),
                       .data = view.as<const char>(),
                       .packed = false,
                       .paired = paired,
                       .columns = paired ? view.size(rows) / 2 : view.size(rows),
                       .k = view.size(rows + 1)};
  weights.group_stride = view.rank == 3 ? view.stride(0) : 0;
  weights.row_stride = view.stride(rows);
  return weights;
}

PackedShape packed_shape(PanelFormat format, std::int64_t groups, std::int64_t columns, std::int64_t k, bool paired) {
  constexpr DType kDTypes[] = {DType::kFloat32, DType::kBFloat16, DType::kInt8, DType::kUInt8};  // by format
  const int panel_columns = paired ? kHalf : kPanelColumns;
  PackedShape shape{.dtype = kDTypes[static_cast<int>(format)]};
  const auto add = [&shape](std::int64_t size) { shape.all_sizes[shape.rank++] = size; };
  if (groups >= 0) add(groups);
  add((columns + panel_columns - 1) / panel_columns);
  if (is_quantized(format)) {
    add(panel_words(format, k) * 4);
  } else {
    add(row_lanes(format, k));
    add(kPanelColumns);
    add(4 / dtype_bytes(shape.dtype));
  }
  return shape;
}

PanelWeights packed_weights(const char* op, const char* argument, const ArrayView& view, std::int64_t groups,
                            std::int64_t columns, std::int64_t k, bool paired, DType dtype) {
  require(op, argument, columns >= 0 && k >= 0, "of non-negative sizes", std::to_string(std::min(columns, k)));
  require(op, argument, std::max(columns, k) <= kLargestSize, "of sizes up to 2^40",
          std::to_string(std::max(columns, k)));
  const Check check(op, argument, view);
  check.cpu().dtype({dtype, DType::kInt8, DType::kUInt8}).contiguous();
  PanelWeights weights{.format = panel_format(dtype),
                       .data = view.as<const char>(),
                       .packed = true,
                       .paired = paired,
                       .columns = columns,
                       .k = k};
  if (view.dtype == DType::kInt8) weights.format = PanelFormat::kInt8;
  if (view.dtype == DType::kUInt8) weights.format = PanelFormat::kInt4;
  require(op, argument, !is_quantized(weights.format) || k <= kLongestInt8Sum, "of at most 65536 inputs when quantised",
          std::to_string(k));
  check.shape(packed_shape(weights.format, groups, columns, k, paired).sizes()).aligned(4);
  return weights;
}

void pack_weights(const char* op, const ArrayView& weight, const ArrayView& packed) {
  check_plain(op, "weight", weight);
  pack_parts(op, {&weight, nullptr}, packed);
}

void pack_pair(const char* op, const ArrayView& gate, const ArrayView& up, const ArrayView& packed) {
  check_plain(op, "gate", gate);
  Check(op, "up", up).cpu().dtype({gate.dtype}).shape({gate.size(0), gate.size(1)}).last_dim_contiguous();
  pack_parts(op, {&gate, &up}, packed);
}

}  // namespace llada

// Packed rows times panels, over all groups and threads: the loop nest that linear, grouped_gemm and moe_mlp share.
//
//   for each group of row chunks, for each panel of its weights:        (a panel stays in L2 for all the chunks)
//     for each chunk of <= 12 rows:  panel_gemm -> tile [rows][32] -> epilogue(chunk, panel, tile)
//
// Threads share the list of all groups' panels, in stretches of equal work however uneven the groups are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/parallel.h"
#include "cpu/panel_gemm.h"
#include "cpu/panel_weights.h"
#include "cpu/thread_scratch.h"
#include "cpu/tile_ops.h"

namespace llada {

struct RowChunk {
  std::int64_t group;
  std::int64_t first_row;
  int num_rows;
};

// Cuts each group's rows [offsets[g], offsets[g + 1]) into chunks of at most 12 rows, evened out: 13 rows become 7 + 6.
void cut_rows(const std::int32_t* offsets, std::int64_t groups, std::vector<RowChunk>& chunks);

// The same of one group of num_rows, into chunks of at most `most`.
void cut_rows(std::int64_t num_rows, std::int64_t most, std::vector<RowChunk>& chunks);

// Rows of k elements: row r is row r of data, or row index_of_row[r] when that is not null.
struct RowSource {
  DType dtype;  // that of the weights unless they are quantised
  const void* data;
  std::int64_t row_stride;  // in elements
  const std::int32_t* index_of_row;
};

void pack_chunk(const PanelWeights& weights, const RowSource& source, const RowChunk& chunk, std::uint32_t* rows);

// Rows in bytes, as quantised weights are multiplied with: [rows][lanes] lanes of four, and what each was scaled by.
struct ByteRows {
  std::int8_t* bytes;
  QuantizedRow* scaling;
};

// Quantises rows [begin, end) of a source that is not gathered.
void quantize_rows(const PanelWeights& weights, const RowSource& source, std::int64_t begin, std::int64_t end,
                   const ByteRows& out);

// Row r of the chunk is row index_of_row[chunk.first_row + r] of source, or row r where that is null.
void pack_bytes(const PanelWeights& weights, const ByteRows& source, const std::int32_t* index_of_row,
                const RowChunk& chunk, std::uint32_t* rows);

// Packs the rows of chunks [begin, end), chunk c at rows + c.first_row * words_per_row().
void pack_chunks(const PanelWeights& weights, const RowSource& source, const std::vector<RowChunk>& chunks,
                 std::int64_t begin, std::int64_t end, std::uint32_t* rows);

struct PanelProduct {
  PanelWeights weights;
  const std::uint32_t* rows;
  const std::vector<RowChunk>& chunks;
};

// One group's chunks times panels [panel_begin, panel_end).
//
// `following` is where the panels begin that are multiplied next; by default those that follow in memory.
//
// Few chunks: panel by panel. While a panel is multiplied with its chunks, the next one is fetched, a share with each
// chunk, so that memory and arithmetic overlap; a single chunk is all stream and fetches 8 KB ahead, where DRAM is
// fastest. With one or two, memory is what the product waits for, and nothing else is fetched: what L2 holds would
// take up the misses that a core can have outstanding (3-5 % with two). Many chunks: their rows no longer stay in L2
// and are read once for a block of panels.
template <class Epilogue>
void run_group(const PanelProduct& product, std::int64_t chunk_begin, std::int64_t chunk_end, std::int64_t panel_begin,
               std::int64_t panel_end, const Epilogue& epilogue, const char* following = nullptr) {
  constexpr std::int64_t kFewChunks = 3, kMemoryBoundChunks = 2, kBlockBytes = 1 << 18;
  const PanelWeights& weights = product.weights;
  const std::int64_t lanes = weights.lanes(), size = std::max<std::int64_t>(weights.scratch_size(), 1);
  const std::int64_t group = product.chunks[chunk_begin].group, chunks = chunk_end - chunk_begin;
  const PanelGemm gemm = select_panel_gemm(weights.format, active_isa());
  const PanelGemm int4_gemm = weights.format == PanelFormat::kInt4 ? select_int4_gemm(active_isa()) : nullptr;
  const bool streamed = weights.ready() || int4_gemm != nullptr;
  const bool memory_bound = chunks <= kMemoryBoundChunks && weights.ready();
  const std::int64_t block = chunks <= kFewChunks ? 1 : std::max<std::int64_t>(1, kBlockBytes / (4 * size));
  // Of panels that are not ready: the int4 kernel expands them on its way for the chunks after the first.
  auto* scratch = weights.ready() ? nullptr : thread_scratch<struct PanelScratch, std::uint32_t>(size * block);
  alignas(64) float tile[kMaxPanelRows * kPanelColumns];
  for (std::int64_t first = panel_begin; first < panel_end; first += block) {
    const std::int64_t last = std::min(first + block, panel_end);
    for (std::int64_t p = first; p < last && !streamed; ++p) weights.panel(group, p, scratch + (p - first) * size);
    for (std::int64_t c = chunk_begin; c < chunk_end; ++c) {
      const RowChunk& chunk = product.chunks[c];
      const bool expanding = int4_gemm != nullptr && c == chunk_begin;
      for (std::int64_t p = first; p < last; ++p) {
        const char* stored = weights.stretch(group, p);
        std::uint32_t* expanded = scratch + (p - first) * size;
        PanelGemmArgs args{
            .rows = product.rows + chunk.first_row * weights.words_per_row(),
            .panel = weights.ready() || expanding ? reinterpret_cast<const std::uint32_t*>(stored) : expanded,
            .num_rows = chunk.num_rows,
            .lanes = lanes,
            .out = tile,
            .out_stride = kPanelColumns,
            .ahead = kAheadOfMemory,
            .rows_ahead = memory_bound ? 0 : kAheadOfMemory,
            .whole_lines = reads_whole_lines(),
            .expanded = expanding && chunks > 1 ? expanded : nullptr};
        if (chunks > 1 || !streamed) {
          args.ahead = memory_bound ? 0 : kAheadOfCache;
          args.next_step = (weights.stretch_bytes() / std::max<std::int64_t>(lanes, 1) + chunks - 1) / chunks;
          const std::int64_t next = p + last - first;
          const char* stretch = next >= panel_end && following != nullptr
                                    ? following + (next - panel_end) * weights.stretch_bytes()
                                    : weights.stretch(group, weights.packed ? next : std::min(next, panel_end - 1));
          args.next = stretch + (c - chunk_begin) * args.next_step * lanes;
        }
        args.into_l2 = args.ahead != kAheadOfCache && fetches_into_l2();
        (expanding ? int4_gemm : gemm)(args);
        epilogue(chunk, p, tile);
      }
    }
  }
}

// A product cut into items of about equal work, each one stretch of the list of all (group, panel) pairs in the order
// of memory: whoever runs an item reads one long stream, and a group's rows are fetched by few threads. Where there are
// fewer panels than items, the groups' chunks are cut as well.
class ProductPlan {
 public:
  ProductPlan(const std::vector<RowChunk>& chunks, std::int64_t panels, int threads);

  std::int64_t items() const { return items_; }

  // Calls run(chunk_begin, chunk_end, panel_begin, panel_end), each within one group, for the stretches of items.
  template <class Run>
  void visit(std::int64_t item_begin, std::int64_t item_end, const Run& run) const {
    const std::int64_t total = segments_.back().work_end, begin = total * item_begin / items_;
    const std::int64_t end = total * item_end / items_;
    std::int64_t work_begin = 0;
    for (const Segment& segment : segments_) {
      if (segment.work_end > begin && work_begin < end) {
        const std::int64_t first = panels_before(segment, begin - work_begin);
        const std::int64_t last = panels_before(segment, end - work_begin);
        if (first < last) run(segment.chunk_begin, segment.chunk_end, first, last);
      }
      work_begin = segment.work_end;
    }
  }

 private:
  struct Segment {
    std::int64_t chunk_begin, chunk_end;  // of one group
    std::int64_t panel_work, work_end;
  };

  // A panel belongs to the item in whose range its work begins.
  std::int64_t panels_before(const Segment& segment, std::int64_t work) const {
    return std::clamp<std::int64_t>((work + segment.panel_work - 1) / segment.panel_work, 0, panels_);
  }

  std::int64_t panels_, items_ = 0;
  std::vector<Segment> segments_;
};

// Panels [panel_begin, panel_end) of every group with chunks, one group after the other.
template <class Epilogue>
void run_columns(const PanelProduct& product, std::int64_t panel_begin, std::int64_t panel_end,
                 const Epilogue& epilogue) {
  const auto count = static_cast<std::int64_t>(product.chunks.size());
  for (std::int64_t begin = 0, end; begin < count; begin = end) {
    for (end = begin + 1; end < count && product.chunks[end].group == product.chunks[begin].group;) ++end;
    const char* following = end < count ? product.weights.stretch(product.chunks[end].group, panel_begin) : nullptr;
    run_group(product, begin, end, panel_begin, panel_end, epilogue, following);
  }
}

// How many threads are worth waking for so many panels, chunks and lanes.
std::int64_t useful_threads(std::int64_t panels, std::int64_t chunks, std::int64_t lanes);

// Items [begin, end) of the plan; the body of a phase.
template <class Epilogue>
void run_items(const PanelProduct& product, const ProductPlan& plan, std::int64_t begin, std::int64_t end,
               const Epilogue& epilogue) {
  plan.visit(begin, end, [&](auto... stretch) { run_group(product, stretch..., epilogue); });
}

}  // namespace llada

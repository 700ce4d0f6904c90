// The core without Python: packing, the panel product on every instruction set, and the core's own thread pool.
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <vector>

#include "common/bfloat16.h"
#include "common/check.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "cpu/panel_gemm.h"
#include "cpu/panel_product.h"
#include "cuda/select_path.h"
#include "grouped_gemm/product_select.h"
#include "isas.h"

namespace llada {
namespace {

#define EXPECT(condition)                                                  \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                        \
    }                                                                      \
  } while (false)

// Multiples of 1/16 in [-2, 2): exact in bfloat16.
float value_at(std::int64_t i) { return static_cast<float>((i * 37 + 11) % 64 - 32) / 16.0f; }

template <class T>
std::vector<T> matrix(std::int64_t rows, std::int64_t columns, std::int64_t seed) {
  std::vector<T> values(rows * columns);
  for (std::int64_t i = 0; i < rows * columns; ++i) values[i] = from_float<T>(value_at(i * 7 + seed));
  return values;
}

template <class T>
void panel_gemm_matches_a_naive_loop(DType dtype, Isa isa) {
  constexpr std::int64_t kDepths[] = {1, 2, 31, 64, 515, 1030};
  for (const std::int64_t k : kDepths) {
    for (int num_rows = 1; num_rows <= kMaxPanelRows; ++num_rows) {
      const int columns = num_rows % 2 == 0 ? kPanelColumns : 19;
      const std::int64_t lanes = lane_count(dtype, k);
      const auto x = matrix<T>(num_rows, k, 1), weight = matrix<T>(columns, k, 2);
      std::vector<std::uint32_t> rows(lanes * num_rows), panel(lanes * kPanelColumns);
      float out[kMaxPanelRows][kPanelColumns];
      pack_rows(dtype, x.data(), k, nullptr, num_rows, k, rows.data());
      pack_panel(dtype, weight.data(), k, columns, k, panel.data());
      select_panel_gemm(panel_format(dtype), isa)({rows.data(), panel.data(), num_rows, lanes, out[0], kPanelColumns});
      for (int r = 0; r < num_rows; ++r) {
        for (int c = 0; c < kPanelColumns; ++c) {
          double sum = 0;
          for (std::int64_t i = 0; c < columns && i < k; ++i) {
            sum += static_cast<double>(to_float(x[r * k + i])) * to_float(weight[c * k + i]);
          }
          EXPECT(std::fabs(out[r][c] - sum) < 1e-4 * (1 + std::fabs(sum)));
        }
      }
    }
  }
}

// How weights are read changes no bit.
template <class T>
void panel_gemm_reads_every_way_alike(DType dtype, Isa isa) {
  constexpr std::int64_t kLanes = 301;
  const std::int64_t k = kLanes * lane_values(dtype);
  const auto x = matrix<T>(kMaxPanelRows, k, 1), weight = matrix<T>(kPanelColumns, k, 2);
  std::vector<std::uint32_t> rows(kLanes * kMaxPanelRows), panel(kLanes * kPanelColumns);
  pack_panel(dtype, weight.data(), k, kPanelColumns, k, panel.data());
  for (int num_rows = 1; num_rows <= kMaxPanelRows; ++num_rows) {
    pack_rows(dtype, x.data(), k, nullptr, num_rows, k, rows.data());
    float out[3][kMaxPanelRows * kPanelColumns];
    for (int way = 0; way < 3; ++way) {
      select_panel_gemm(panel_format(dtype), isa)({.rows = rows.data(),
                                                   .panel = panel.data(),
                                                   .num_rows = num_rows,
                                                   .lanes = kLanes,
                                                   .out = out[way],
                                                   .out_stride = kPanelColumns,
                                                   .whole_lines = way == 1,
                                                   .into_l2 = way == 2});
    }
    for (int way = 1; way < 3; ++way) EXPECT(std::equal(out[0], out[0] + num_rows * kPanelColumns, out[way]));
  }
}

// In parts along K, between other rows, one panel or two: the bits of panel_gemm.
template <class T>
void wide_gemm_matches_panel_gemm(DType dtype, Isa isa) {
  const PanelFormat format = panel_format(dtype);
  const WideKernel wide = select_wide_gemm(format, isa);
  if (wide.gemm == nullptr) return;
  constexpr std::int64_t kDepths[] = {2, 30, 512, 1030};
  for (const std::int64_t k : kDepths) {
    const std::int64_t lanes = lane_count(dtype, k), words = lanes * kPanelColumns, stride = k + 3;
    const auto x = matrix<T>(kMaxWideRows, stride, 1), weight = matrix<T>(2 * kPanelColumns, k, 2);
    std::vector<std::uint32_t> rows(lanes * kMaxWideRows), panels(2 * words);
    for (int p = 0; p < 2; ++p) {
      pack_panel(dtype, weight.data() + p * kPanelColumns * k, k, kPanelColumns, k, panels.data() + p * words);
    }
    for (int num_rows = 1; num_rows <= wide.rows; ++num_rows) {
      pack_rows(dtype, x.data(), stride, nullptr, num_rows, k, rows.data());
      for (int num_panels = 1; num_panels <= 2; ++num_panels) {
        float expected[2 * kMaxWideRows * kPanelColumns], out[2 * kMaxWideRows * kPanelColumns];
        for (int p = 0; p < num_panels; ++p) {
          float* tile = expected + p * num_rows * kPanelColumns;
          select_panel_gemm(format,
                            isa)({rows.data(), panels.data() + p * words, num_rows, lanes, tile, kPanelColumns});
        }
        for (std::int64_t lane = 0; lane < lanes; lane += kLaneBlock) {
          wide.gemm({.rows = reinterpret_cast<const char*>(x.data()) + 4 * lane,
                     .row_bytes = stride * dtype_bytes(dtype),
                     .panel = panels.data() + lane * kPanelColumns,
                     .panel_words = words,
                     .num_rows = num_rows,
                     .num_panels = num_panels,
                     .lanes = std::min(kLaneBlock, lanes - lane),
                     .first = lane == 0,
                     .out = out,
                     .next = nullptr,
                     .next_step = 0});
        }
        EXPECT(std::equal(out, out + num_panels * num_rows * kPanelColumns, expected));
      }
    }
  }
}

void packed_rows_follow_the_index() {
  const auto x = matrix<bfloat16>(5, 7, 3);
  const std::int32_t index[] = {4, 0, 4};
  std::uint32_t rows[4 * 3];
  pack_rows(DType::kBFloat16, x.data(), 7, index, 3, 7, rows);
  for (int r = 0; r < 3; ++r) {
    for (int i = 0; i < 8; ++i) {
      const std::uint16_t got = static_cast<std::uint16_t>(rows[i / 2 * 3 + r] >> (i % 2 * 16));
      EXPECT(got == (i < 7 ? x[index[r] * 7 + i].bits : 0));
    }
  }
}

void rows_are_cut_evenly() {
  const std::int32_t offsets[] = {0, 0, 13, 13, 38};
  std::vector<RowChunk> chunks;
  cut_rows(offsets, 4, chunks);
  const int sizes[] = {7, 6, 9, 8, 8};
  EXPECT(chunks.size() == 5);
  std::int64_t row = 0;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    EXPECT(chunks[i].num_rows == sizes[i] && chunks[i].first_row == row && chunks[i].group == (i < 2 ? 1 : 3));
    row += sizes[i];
  }
}

void plans_visit_every_panel_once_in_even_items() {
  const std::int32_t offsets[] = {0, 0, 13, 13, 40, 41, 300};
  std::vector<RowChunk> chunks;
  cut_rows(offsets, 6, chunks);
  const auto count = static_cast<std::int64_t>(chunks.size());
  for (const std::int64_t panels : {1, 2, 64, 101}) {
    for (const int threads : {1, 2, 7}) {
      const ProductPlan plan(chunks, panels, threads);
      EXPECT(plan.items() >= threads && (threads > 1 || plan.items() == 1));
      std::vector<int> seen(count * panels, 0);
      for (std::int64_t item = 0; item < plan.items(); ++item) {
        plan.visit(item, item + 1,
                   [&](std::int64_t chunk, std::int64_t chunk_end, std::int64_t first, std::int64_t last) {
                     EXPECT(first < last && chunks[chunk].group == chunks[chunk_end - 1].group);
                     for (; chunk < chunk_end; ++chunk) {
                       for (std::int64_t p = first; p < last; ++p) ++seen[chunk * panels + p];
                     }
                   });
      }
      for (const int value : seen) EXPECT(value == 1);
    }
  }
  EXPECT(ProductPlan(chunks, 0, 2).items() == 0 && ProductPlan({}, 5, 2).items() == 0);
}

void phases_see_what_the_phases_before_wrote() {
  for (const int threads : {1, 2, 5}) {
    set_pool_threads(threads);
    for (const std::int64_t size : {0, 1, 7, 1000}) {
      std::vector<int> first(size, 0), second(size, 0);
      parallel_phases(threads, {{size, 1,
                                 [&](std::int64_t begin, std::int64_t end) {
                                   for (std::int64_t i = begin; i < end; ++i) first[i] = 1;
                                 }},
                                {size, 3, [&](std::int64_t begin, std::int64_t end) {
                                   for (std::int64_t i = begin; i < end; ++i) second[i] += first[size - 1 - i];
                                 }}});
      for (const int value : second) EXPECT(value == 1);
    }
    bool thrown = false;
    try {
      const auto fail = [](std::int64_t begin, std::int64_t) {
        if (begin == 3) throw std::runtime_error("planted");
      };
      parallel_phases(threads, {{10, 1, fail}, {10, 1, [](std::int64_t, std::int64_t) {}}});
    } catch (const std::runtime_error&) {
      thrown = true;
    }
    EXPECT(thrown);
  }
  set_pool_threads(0);
}

void the_pool_covers_every_item_once() {
  for (const int threads : {1, 2, 5}) {
    set_pool_threads(threads);
    for (const std::int64_t size : {0, 1, 2, 7, 1000}) {
      std::vector<int> seen(size, 0);
      parallel_for(0, size, 3, [&](std::int64_t begin, std::int64_t end) {
        parallel_for(begin, end, 1, [&](std::int64_t first, std::int64_t last) {  // nested: runs in place
          for (std::int64_t i = first; i < last; ++i) ++seen[i];
        });
      });
      for (const int count : seen) EXPECT(count == 1);
    }
    std::atomic<int> late{0};  // by more than a caller waits awake
    parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
      if (begin > 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      late += static_cast<int>(end - begin);
    });
    EXPECT(late == threads);
    for (const std::int64_t failing : {0, 99}) {
      bool caught = false;
      try {
        parallel_for(0, 100, 1, [&](std::int64_t begin, std::int64_t end) {
          if (begin <= failing && failing < end) throw std::runtime_error("out");
        });
      } catch (const std::runtime_error&) {
        caught = true;
      }
      EXPECT(caught);
    }
  }
}

void the_pool_makes_do_with_the_threads_it_gets() {
#if defined(__GLIBC__)
  pthread_attr_t before, huge;
  EXPECT(pthread_getattr_default_np(&before) == 0 && pthread_getattr_default_np(&huge) == 0);
  EXPECT(pthread_attr_setstacksize(&huge, std::size_t{1} << 50) == 0 && pthread_setattr_default_np(&huge) == 0);
  set_pool_threads(6);
  std::atomic<int> items{0};
  parallel_for(0, 100, 1, [&](std::int64_t begin, std::int64_t end) { items += static_cast<int>(end - begin); });
  EXPECT(items == 100);
  EXPECT(pthread_setattr_default_np(&before) == 0);
  set_pool_threads(0);
#endif
}

void unknown_instruction_sets_are_refused() {
  bool caught = false;
  try {
    force_isa("sse9");
  } catch (const ValueError&) {
    caught = true;
  }
  EXPECT(caught);
}

std::string refusal(const ArrayView& view, const Backend& backend) {
  try {
    Check("op", "x", view).on(backend);
  } catch (const ValueError& error) {
    return error.what();
  }
  return "";
}

void all_arrays_are_on_the_op_s_device() {
  ArrayView view;
  EXPECT(refusal(view, kCpuBackend).empty());
  view.device_index = -1;  // torch's index of the CPU
  EXPECT(refusal(view, kCpuBackend).empty());
  view.device = DeviceKind::kCuda;
  view.device_index = 1;
  EXPECT(refusal(view, {DeviceKind::kCuda, 1, true}).empty());
  EXPECT(refusal(view, {DeviceKind::kCuda, 0, true}) == "op: x must be on cuda:0, where the op runs, got cuda:1");
  EXPECT(refusal(view, kCpuBackend) == "op: x must be on cpu, where the op runs, got cuda:1");
}

void gpu_paths_follow_the_device_unless_forced() {
  force_isa("sm90a");
  EXPECT(forced_cuda_path() == CudaPath::kSm90a && active_isa() == available_isas().front());
  EXPECT(cuda::select_path(90, std::nullopt) == CudaPath::kSm90a);
  for (const int newer_or_older : {80, 86, 89, 100, 120}) {
    EXPECT(cuda::select_path(newer_or_older, std::nullopt) == CudaPath::kSm80);
  }
  EXPECT(cuda::select_path(90, CudaPath::kSm80) == CudaPath::kSm80);
  bool caught = false;
  try {
    cuda::select_path(89, CudaPath::kSm90a);
  } catch (const ValueError&) {
    caught = true;
  }
  EXPECT(caught);
  force_isa("portable");
  EXPECT(!forced_cuda_path() && active_isa() == Isa::kPortable);
  force_isa("");
}

void products_take_the_tile_that_keeps_all_multiprocessors_busy() {
  using cuda::ProductShape, cuda::select_product;
  constexpr cuda::ProductTiles kTiles{64, 128, 192, 128, 64}, kExperts{64, 128, 192, 128, 0};
  constexpr int kMultiprocessors = 132;
  constexpr std::int64_t kHidden = 2048, kVocabulary = 157184, kGateUp = 2048, kNumExperts = 64, kSlots = 8;
  const auto dense = [&](std::int64_t rows, std::int64_t columns) {
    return select_product({rows, columns, 1, kMultiprocessors}, kTiles);
  };
  EXPECT(dense(1, kHidden) == ProductShape::kNarrow && dense(64, kHidden) == ProductShape::kNarrow);
  EXPECT(dense(65, kHidden) == ProductShape::kFewRows && dense(1024, kHidden) == ProductShape::kFewRows);
  EXPECT(dense(8192, kHidden) == ProductShape::kManyRows);
  EXPECT(dense(1, kVocabulary) == ProductShape::kFewRows && dense(512, kVocabulary) == ProductShape::kManyRows);
  const auto experts = [&](std::int64_t tokens) {
    return select_product({tokens * kSlots, kGateUp, kNumExperts, kMultiprocessors}, kExperts);
  };
  EXPECT(experts(1) == ProductShape::kFewRows && experts(512) == ProductShape::kFewRows);
  EXPECT(experts(513) == ProductShape::kManyRows && experts(8192) == ProductShape::kManyRows);
}

}  // namespace
}  // namespace llada

int main() {
  using namespace llada;
  for (const Isa isa : tested_isas()) {
    force_isa(isa_name(isa));
    panel_gemm_matches_a_naive_loop<float>(DType::kFloat32, isa);
    panel_gemm_matches_a_naive_loop<bfloat16>(DType::kBFloat16, isa);
    panel_gemm_reads_every_way_alike<float>(DType::kFloat32, isa);
    panel_gemm_reads_every_way_alike<bfloat16>(DType::kBFloat16, isa);
    wide_gemm_matches_panel_gemm<float>(DType::kFloat32, isa);
    wide_gemm_matches_panel_gemm<bfloat16>(DType::kBFloat16, isa);
  }
  force_isa("");
  packed_rows_follow_the_index();
  rows_are_cut_evenly();
  plans_visit_every_panel_once_in_even_items();
  phases_see_what_the_phases_before_wrote();
  the_pool_covers_every_item_once();
  the_pool_makes_do_with_the_threads_it_gets();
  unknown_instruction_sets_are_refused();
  all_arrays_are_on_the_op_s_device();
  gpu_paths_follow_the_device_unless_forced();
  products_take_the_tile_that_keeps_all_multiprocessors_busy();
}

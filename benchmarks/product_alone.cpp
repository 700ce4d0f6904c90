// moe_mlp's products alone, the loop nest of panel_product.h over cold panels with nothing before or after it: what
// part of the peak, or of the rate at which memory is read, gathering, SwiGLU, scattering and combining could at most
// leave. The 7B's layer. The first product with as many rows for every expert; then both with as many rows as tokens
// whose experts are drawn at random give each.
//
//   build/product_alone [threads [format [rows an expert]]]
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "cpu/panel_product.h"
#include "cpu/scratch.h"
#include "roofline/roofline.h"

namespace {

using namespace llada;

constexpr std::int64_t kExperts = 64, kSlots = 8, kHidden = 2048, kIntermediate = 1024;
constexpr int kRounds = 5;
constexpr double kProbeSeconds = 0.1;
constexpr std::int64_t kReadBytes = 1 << 28;

struct Case {
  const char* name;
  PanelFormat format;
  Arithmetic arithmetic;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Seconds of one pass over all experts.
double pass(const PanelWeights& weights, const std::uint32_t* rows, const std::vector<RowChunk>& chunks, int threads) {
  const ProductPlan plan(chunks, weights.panels(), threads);
  const auto start = std::chrono::steady_clock::now();
  parallel_phases(threads, {{plan.items(), 1, [&](std::int64_t begin, std::int64_t end) {
                               run_items({weights, rows, chunks}, plan, begin, end,
                                         [](const RowChunk&, std::int64_t, const float*) {});
                             }}});
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Product {
  PanelWeights weights;
  Scratch<std::uint32_t> panels;

  Product(PanelFormat format, bool paired, std::int64_t columns, std::int64_t k)
      : weights{format, nullptr, true, paired, columns, k}, panels(words()) {
    std::memset(panels.data(), 0, bytes());
    weights.data = reinterpret_cast<const char*>(panels.data());
  }

  std::int64_t words() const { return kExperts * weights.panels() * weights.panel_size(); }
  std::int64_t bytes() const { return words() * static_cast<std::int64_t>(sizeof(std::uint32_t)); }
  double operations(std::int64_t rows) const {
    return 2.0 * static_cast<double>(rows * weights.panels() * kPanelColumns * weights.k);
  }
};

std::vector<std::int32_t> equal_offsets(std::int64_t rows_of_expert) {
  std::vector<std::int32_t> offsets(kExperts + 1);
  for (std::int64_t e = 0; e <= kExperts; ++e) offsets[e] = static_cast<std::int32_t>(e * rows_of_expert);
  return offsets;
}

std::vector<std::int32_t> drawn_offsets(std::int64_t rows_of_expert) {
  std::mt19937 random(1);
  std::vector<std::int32_t> experts(kExperts), offsets(kExperts + 1);
  std::iota(experts.begin(), experts.end(), 0);
  for (std::int64_t token = 0; token < rows_of_expert * kExperts / kSlots; ++token) {
    std::shuffle(experts.begin(), experts.end(), random);
    for (std::int64_t slot = 0; slot < kSlots; ++slot) ++offsets[experts[slot] + 1];
  }
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
  return offsets;
}

struct Fractions {
  double of_peak, of_memory, bytes_per_second;
};

Fractions measure(const Product& product, const std::vector<std::int32_t>& offsets, ReadProbe& memory,
                  ProductProbe& products, int threads) {
  std::vector<RowChunk> chunks;
  cut_rows(offsets.data(), kExperts, chunks);
  const std::int64_t row_words = offsets.back() * product.weights.words_per_row();
  const Scratch<std::uint32_t> rows(row_words);
  std::memset(rows.data(), 0, row_words * sizeof(std::uint32_t));
  const double operations = product.operations(offsets.back());
  std::int64_t touched = 0;
  for (std::int64_t e = 0; e < kExperts; ++e) touched += offsets[e + 1] > offsets[e] ? 1 : 0;
  const auto bytes = static_cast<double>(product.bytes() / kExperts * touched);
  std::vector<double> of_peak, of_memory;
  double read = memory.round(kProbeSeconds), multiplied = products.round(kProbeSeconds);
  for (int round = 0; round < kRounds; ++round) {
    const double seconds = pass(product.weights, rows.data(), chunks, threads);
    const double read_after = memory.round(kProbeSeconds), multiplied_after = products.round(kProbeSeconds);
    of_memory.push_back(2 * bytes / seconds / (read + read_after));
    of_peak.push_back(2 * operations / seconds / (multiplied + multiplied_after));
    read = read_after;
    multiplied = multiplied_after;
  }
  return {median(of_peak), median(of_memory), read};
}

void measure(const Case& format, ReadProbe& memory, int threads, std::int64_t only_rows) {
  const Product first(format.format, true, kIntermediate, kHidden);
  const Product second(format.format, false, kHidden, kIntermediate);
  ProductProbe products(threads, format.arithmetic);
  for (const std::int64_t rows : {1, 2, 4, 6, 8, 16, 32, 64, 128, 256}) {
    if (only_rows > 0 && rows != only_rows) continue;
    const Fractions equal = measure(first, equal_offsets(rows), memory, products, threads);
    std::printf("%s, %3ld rows an expert: %.2f of the peak, %.2f of memory's rate (%.0f GB/s)", format.name, rows,
                equal.of_peak, equal.of_memory, equal.bytes_per_second * 1e-9);
    const auto drawn = drawn_offsets(rows);
    const Fractions drawn_first = measure(first, drawn, memory, products, threads);
    const Fractions drawn_second = measure(second, drawn, memory, products, threads);
    std::printf("; drawn: %.2f, %.2f; second product: %.2f, %.2f\n", drawn_first.of_peak, drawn_first.of_memory,
                drawn_second.of_peak, drawn_second.of_memory);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int count, char** arguments) {
  const int threads = count > 1 ? std::atoi(arguments[1]) : llada::num_threads();
  llada::set_pool_threads(threads);
  llada::ReadProbe memory(threads, kReadBytes);
  for (const Case& format : {Case{"bf16", llada::PanelFormat::kBFloat16, llada::Arithmetic::kBf16},
                             Case{"int8", llada::PanelFormat::kInt8, llada::Arithmetic::kInt8},
                             Case{"int4", llada::PanelFormat::kInt4, llada::Arithmetic::kInt8},
                             Case{"fp32", llada::PanelFormat::kFloat32, llada::Arithmetic::kFp32}}) {
    if (count > 2 && std::strcmp(format.name, arguments[2]) != 0) continue;
    measure(format, memory, threads, count > 3 ? std::atoi(arguments[3]) : 0);
  }
}

// attention's tile alone, over keys and values that are packed and in cache already: what part of the peak the products
// leave when the softmax, and then the packing of each block, is added to them. Then whole calls, and one query on keys
// that the last call left in cache beside a bare read of them. 16-bit and 32-bit, heads of 128.
//
//   build/attention_alone [threads]
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "attention/attention_tile.h"
#include "common/bfloat16.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "cpu/panel_gemm.h"
#include "cpu/scratch.h"
#include "roofline/probe_kernels.h"
#include "roofline/roofline.h"

namespace {

using namespace llada;

constexpr int kDepth = 128, kHeads = 16, kPanels = kDepth / kAttentionColumns;
constexpr int kStateSize = kDepth + kStateExtra;
constexpr int kRounds = 15;
constexpr double kProbeSeconds = 0.02, kPassSeconds = 0.02;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Random numbers of a dtype: the softmax of equal scores would be as fast, but not the same.
Scratch<char> random_rows(DType dtype, std::int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Scratch<char> rows(count * dtype_bytes(dtype));
  for (std::int64_t i = 0; i < count; ++i) {
    if (dtype == DType::kBFloat16) {
      reinterpret_cast<bfloat16*>(rows.data())[i] = from_float<bfloat16>(normal(random));
    } else {
      reinterpret_cast<float*>(rows.data())[i] = normal(random);
    }
  }
  return rows;
}

enum class Work { kProducts, kTile, kPacking };

// One thread's block of 256 keys, and `tiles` tiles of 12 rows that take it in turn.
class Block {
 public:
  Block(DType dtype, int tiles, const AttentionKernel& kernel)
      : dtype_(dtype),
        tiles_(tiles),
        kernel_(kernel),
        lanes_(static_cast<int>(lane_count(dtype, kDepth))),
        source_(random_rows(dtype, std::int64_t{kAttentionBlock} * kHeads * kDepth, 1)),
        queries_(std::int64_t{tiles} * kernel.rows * kQueryStride),
        keys_(kAttentionBlock * lanes_),
        values_(kAttentionBlock * lanes_),
        states_(std::int64_t{tiles} * kernel.rows * kStateSize),
        scores_(kAttentionRows * kAttentionBlock),
        weights_(kAttentionRows * kAttentionBlock) {
    const Scratch<char> rows = random_rows(dtype, std::int64_t{tiles} * kernel.rows * kDepth, 2);
    for (int r = 0; r < tiles * kernel.rows; ++r) {
      std::memcpy(queries_.data() + r * kQueryStride, rows.data() + std::int64_t{r} * lanes_ * 4, lanes_ * 4);
    }
    std::memset(weights_.data(), 0, kAttentionRows * kAttentionBlock * 4);
    pack();
  }

  void run(Work work) {
    if (work == Work::kPacking) pack();
    for (int tile = 0; tile < tiles_; ++tile) {
      AttentionTileArgs args{};
      args.queries = queries_.data() + tile * kernel_.rows * kQueryStride;
      args.keys = keys_.data();
      args.values = values_.data();
      args.value_lanes = kAttentionBlock / lane_values(dtype_);
      for (int& keys : args.row_keys) keys = kAttentionBlock;
      args.num_rows = kernel_.rows;
      args.end_key = kAttentionBlock;
      args.depth_lanes = lanes_;
      args.depth_panels = kPanels;
      args.scale_log2 = 0.1275f;
      args.states = states_.data() + tile * kernel_.rows * kStateSize;
      args.state_stride = kStateSize;
      args.sums = AttentionSums::kStart;
      args.scores = scores_.data();
      args.weights = weights_.data();
      if (work == Work::kProducts) {
        kernel_.score(args);
        kernel_.add_values(args);
      } else {
        kernel_.tile(args);
      }
    }
  }

 private:
  void pack() {
    const std::int64_t stride = kHeads * kDepth, bytes = dtype_bytes(dtype_);
    for (int key = 0; key < kAttentionBlock; key += kAttentionColumns) {
      const char* rows = source_.data() + key * stride * bytes;
      pack_panel(dtype_, rows, stride, kAttentionColumns, kDepth, keys_.data() + key * lanes_);
      kernel_.pack_values({rows, stride, kAttentionColumns, kAttentionColumns, kDepth,
                           values_.data() + key / lane_values(dtype_) * kAttentionColumns,
                           kAttentionBlock / lane_values(dtype_)});
    }
  }

  DType dtype_;
  int tiles_;
  const AttentionKernel& kernel_;
  int lanes_;
  Scratch<char> source_;
  Scratch<std::uint32_t> queries_, keys_, values_;
  Scratch<float> states_, scores_;
  Scratch<std::uint32_t> weights_;
};

void measure(DType dtype, int tiles, int threads) {
  const bool bf16 = dtype == DType::kBFloat16;
  const AttentionKernel kernel = select_attention_kernel(dtype, active_isa());
  ProductProbe probe(threads, bf16 ? Arithmetic::kBf16 : Arithmetic::kFp32);
  std::vector<double> fractions[3];
  std::vector<Block> blocks;
  for (int thread = 0; thread < threads; ++thread) blocks.emplace_back(dtype, tiles, kernel);
  const double operations = 4.0 * kAttentionBlock * kernel.rows * tiles * kDepth;
  std::int64_t repeats = 1;
  for (int round = 0; round < kRounds; ++round) {
    for (const Work work : {Work::kProducts, Work::kTile, Work::kPacking}) {
      const double before = probe.round(kProbeSeconds);
      const auto start = std::chrono::steady_clock::now();
      parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t thread = begin; thread < end; ++thread) {
          for (std::int64_t i = 0; i < repeats; ++i) blocks[thread].run(work);
        }
      });
      const double seconds = seconds_since(start), rate = operations * repeats * threads / seconds;
      fractions[static_cast<int>(work)].push_back(2 * rate / (before + probe.round(kProbeSeconds)));
      if (seconds < kPassSeconds / 2) repeats = std::max<std::int64_t>(repeats * kPassSeconds / seconds, repeats + 1);
    }
  }
  std::printf("%s, a block packed for %3d rows: products %.3f  and softmax %.3f  and packing %.3f\n",
              bf16 ? "bf16" : "fp32", tiles * kernel.rows, median(fractions[0]), median(fractions[1]),
              median(fractions[2]));
}

// The op on `tokens` tokens, its output written to the same memory again and again; with a mask that hides nothing.
void measure_calls(DType dtype, std::int64_t tokens, int threads) {
  const bool bf16 = dtype == DType::kBFloat16;
  const std::int64_t count = tokens * kHeads * kDepth;
  Scratch<char> arrays[] = {random_rows(dtype, count, 1), random_rows(dtype, count, 2), random_rows(dtype, count, 3),
                            random_rows(dtype, count, 4)};
  const auto view = [&](int i) { return contiguous_view(arrays[i].data(), dtype, {1, tokens, kHeads, kDepth}); };
  AttentionArgs args{};
  args.q = view(0), args.k = view(1), args.v = view(2), args.out = view(3);
  AttentionArgs masked = args;
  const Scratch<char> mask(tokens * tokens);
  std::memset(mask.data(), 1, tokens * tokens);
  masked.mask = contiguous_view(mask.data(), DType::kBool, {1, 1, tokens, tokens});
  ProductProbe probe(threads, bf16 ? Arithmetic::kBf16 : Arithmetic::kFp32);
  const double operations = 4.0 * tokens * tokens * kHeads * kDepth;
  std::vector<double> fractions, ratios;
  for (int round = 0; round < kRounds; ++round) {
    const double before = probe.round(kProbeSeconds);
    double seconds[2] = {};
    std::vector<double> plain, with_mask;
    for (const auto start = std::chrono::steady_clock::now(); seconds_since(start) < 2 * kPassSeconds;) {
      for (const AttentionArgs* call : {&args, &masked}) {
        const auto begin = std::chrono::steady_clock::now();
        attention(*call);
        (call == &args ? plain : with_mask).push_back(seconds_since(begin));
      }
    }
    seconds[0] = median(plain), seconds[1] = median(with_mask);
    fractions.push_back(2 * operations / seconds[0] / (before + probe.round(kProbeSeconds)));
    ratios.push_back(seconds[1] / seconds[0]);
  }
  std::printf("%s, %4ld tokens: %.3f of the peak (best %.3f), with a mask %.3f of the time\n", bf16 ? "bf16" : "fp32",
              tokens, median(fractions), *std::max_element(fractions.begin(), fractions.end()), median(ratios));
}

// One query on `keys` keys that stay in cache, in turns with a bare read of the same keys and values by as many threads
// and with a loop that only wakes them.
void measure_one_query(DType dtype, std::int64_t keys, int threads) {
  constexpr std::int64_t kPieces = 16;
  constexpr int kCalls = 2000;
  const std::int64_t row = kHeads * kDepth, bytes = keys * row * dtype_bytes(dtype), piece = bytes / kPieces;
  const Scratch<char> k = random_rows(dtype, keys * row, 1), v = random_rows(dtype, keys * row, 2);
  const Scratch<char> q = random_rows(dtype, row, 3), out = random_rows(dtype, row, 4);
  const auto view = [&](const Scratch<char>& from, std::int64_t length) {
    return contiguous_view(from.data(), dtype, {1, length, kHeads, kDepth});
  };
  AttentionArgs args{};
  args.q = view(q, 1), args.k = view(k, keys), args.v = view(v, keys), args.out = view(out, 1);
  const ProbeRead read = select_probe_kernels(active_isa()).read;
  std::vector<double> calls, reads, starts;
  for (int i = 0; i < kCalls; ++i) {
    auto start = std::chrono::steady_clock::now();
    attention(args);
    calls.push_back(seconds_since(start));
    std::atomic<std::int64_t> next{0};
    start = std::chrono::steady_clock::now();
    parallel_for(0, threads, 1, [&](std::int64_t, std::int64_t) {
      for (std::int64_t taken = next++; taken < 2 * kPieces; taken = next++) {
        read((taken < kPieces ? k : v).data() + taken % kPieces * piece, piece);
      }
    });
    reads.push_back(seconds_since(start));
    start = std::chrono::steady_clock::now();
    parallel_for(0, threads, 1, [](std::int64_t, std::int64_t) {});
    starts.push_back(seconds_since(start));
  }
  const auto text = [](const std::vector<double>& times) {
    char line[48];
    std::snprintf(line, sizeof line, "%.1f (%.1f)", median(times) * 1e6,
                  *std::min_element(times.begin(), times.end()) * 1e6);
    return std::string(line);
  };
  std::printf("%s, 1 query, %ld keys: %s us; reading them %s, waking the threads %s\n",
              dtype == DType::kBFloat16 ? "bf16" : "fp32", keys, text(calls).c_str(), text(reads).c_str(),
              text(starts).c_str());
}

}  // namespace

int main(int count, char** arguments) {
  const int threads = count > 1 ? std::atoi(arguments[1]) : llada::num_threads();
  llada::set_pool_threads(threads);
  for (const llada::DType dtype : {llada::DType::kBFloat16, llada::DType::kFloat32}) {
    for (const int tiles : {22, 86}) measure(dtype, tiles, threads);
    for (const std::int64_t tokens : {256, 512, 1024, 2048}) measure_calls(dtype, tokens, threads);
    measure_one_query(dtype, 512, threads);
  }
}

// Product by mma.sync: 32 x 64 of c per block of four warps (2 x 2, each 16 x 32), depth in steps of 64, three stages
// of cp.async. Rows of a stage are 128 bytes, the 16-byte chunk c of row r at c ^ r % 8.
#include "cuda/launch.h"
#include "cuda/ptx_sm80.h"
#include "tests/emulate/subjects.h"

namespace subjects {
namespace {

namespace ptx = llada::ptx;

constexpr int kThreads = 128, kRows = 32, kColumns = 64, kDepth = 64, kStages = 3, kChunks = kDepth / 8;
constexpr int kStageBytes = (kRows + kColumns) * kDepth * 2;

__device__ __forceinline__ int chunk_offset(int row, int chunk) { return row * 128 + ((chunk ^ (row % 8)) * 16); }

// Starts the copy of `count` rows from `first` on; rows beyond the matrix become zero.
template <Fault kFault>
__device__ __forceinline__ void copy_rows(char* stage, const std::uint16_t* matrix, int first, int count, int rows,
                                          int depth, int k) {
  const int limit = kFault == Fault::kReadPastEnd ? rows + 1 : rows;
  for (int i = threadIdx.x; i < count * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool inside = first + row < limit;
    const std::uint16_t* source = matrix + static_cast<std::size_t>(inside ? first + row : 0) * depth + k + chunk * 8;
    ptx::cp_async<16>(stage + chunk_offset(row, chunk), source, inside ? 16 : 0);
  }
}

template <Fault kFault>
__global__ void __launch_bounds__(kThreads) product_kernel(Product p) {
  LLADA_DYNAMIC_SHARED(char, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row0 = blockIdx.y * kRows, column0 = blockIdx.x * kColumns;
  const int warp_row = warp % 2 * 16, warp_column = warp / 2 * 32;
  const int steps = p.depth / kDepth;
  const auto load = [&](int step) {
    char* stage = shared + step % kStages * kStageBytes;
    copy_rows<Fault::kNone>(stage, p.a, row0, kRows, p.rows, p.depth, step * kDepth);
    copy_rows<kFault>(stage + kRows * 128, p.b, column0, kColumns, p.columns, p.depth, step * kDepth);
  };
  float sums[4][4] = {};
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) load(step);
    ptx::cp_async_commit_group();
  }
  for (int step = 0; step < steps; ++step) {
    ptx::cp_async_wait_group<kFault == Fault::kUnwaitedCopy ? kStages - 1 : kStages - 2>();
    if constexpr (kFault != Fault::kMissingBarrier) __syncthreads();
    if (step + kStages - 1 < steps) load(step + kStages - 1);
    ptx::cp_async_commit_group();
    const char* a = shared + step % kStages * kStageBytes;
    const char* b = a + kRows * 128;
    for (int k = 0; k < kDepth / 16; ++k) {
      std::uint32_t left[4];
      const int chunk = k * 2 + lane / 16;
      const int row = warp_row + lane % 16;
      ptx::ldmatrix(left, a + (kFault == Fault::kWrongSwizzle ? row * 128 + chunk * 16 : chunk_offset(row, chunk)));
      for (int j = 0; j < 2; ++j) {
        std::uint32_t right[4];  // two tiles of 8 columns: upper and lower half of k each
        ptx::ldmatrix(right, b + chunk_offset(warp_column + j * 16 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
        for (int half = 0; half < 2; ++half) {
          constexpr int kSwap = kFault == Fault::kSwappedFragment ? 1 : 0;
          ptx::mma_m16n8k16<__nv_bfloat16>(sums[j * 2 + half], left, right[half * 2 + kSwap],
                                           right[half * 2 + 1 - kSwap]);
        }
      }
    }
  }
  ptx::cp_async_wait_all();
  for (int tile = 0; tile < 4; ++tile) {
    for (int i = 0; i < 4; ++i) {
      const int row = row0 + warp_row + lane / 4 + i / 2 * 8;
      const int column = column0 + warp_column + tile * 8 + lane % 4 * 2 + i % 2;
      const bool inside = kFault == Fault::kOffByOne ? row <= p.rows : row < p.rows;
      if (inside && column < p.columns) p.c[static_cast<std::size_t>(row) * p.columns + column] = sums[tile][i];
    }
  }
}

template <Fault kFault>
int run(const Product& p) {
  const dim3 grid((p.columns + kColumns - 1) / kColumns, (p.rows + kRows - 1) / kRows);
  return llada::cuda::launch({.grid = grid, .block = kThreads, .shared_bytes = kStages * kStageBytes},
                             product_kernel<kFault>, p);
}

}  // namespace

int product_sm80(Fault fault, const Product& product) {
  switch (fault) {
    case Fault::kMissingBarrier:
      return run<Fault::kMissingBarrier>(product);
    case Fault::kUnwaitedCopy:
      return run<Fault::kUnwaitedCopy>(product);
    case Fault::kSwappedFragment:
      return run<Fault::kSwappedFragment>(product);
    case Fault::kWrongSwizzle:
      return run<Fault::kWrongSwizzle>(product);
    case Fault::kReadPastEnd:
      return run<Fault::kReadPastEnd>(product);
    case Fault::kOffByOne:
      return run<Fault::kOffByOne>(product);
    default:
      return run<Fault::kNone>(product);
  }
}

}  // namespace subjects

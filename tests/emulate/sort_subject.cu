// Stable counting sort in one block: each warp counts its part of the keys, a scan over warps and keys, then each warp
// places its part in order.
#include "cuda/launch.h"
#include "tests/emulate/subjects.h"

namespace subjects {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr unsigned kAll = 0xffffffffu;

template <Fault kFault>
__global__ void __launch_bounds__(kThreads) sort_kernel(const int* keys, int* order, int count) {
  LLADA_SHARED_ARRAY(int, counts, kWarps* kKeys);
  LLADA_SHARED_ARRAY(int, first, kKeys);
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  for (int i = thread; i < kWarps * kKeys; i += kThreads) counts[i] = 0;
  __syncthreads();
  const int part = (count + kWarps - 1) / kWarps, begin = warp * part, end = min(count, begin + part);
  for (int i = begin + lane; i < end; i += 32) atomicAdd(&counts[warp * kKeys + keys[i]], 1);
  if constexpr (kFault != Fault::kMissingBarrier) __syncthreads();

  if (thread < kKeys) {
    int sum = 0;
    for (int w = 0; w < kWarps; ++w) {
      const int own = counts[w * kKeys + thread];
      counts[w * kKeys + thread] = sum;
      sum += own;
    }
    first[thread] = sum;
  }
  __syncthreads();
  if (thread == 0) {
    int sum = 0;
    for (int key = 0; key < kKeys; ++key) {
      const int own = first[key];
      first[key] = sum;
      sum += own;
    }
  }
  __syncthreads();

  for (int base = begin; base < end; base += 32) {
    const int i = base + lane;
    const int key = i < end ? keys[i] : -1;
    const unsigned same = __match_any_sync(kAll, key);
    int* counter = &counts[warp * kKeys + max(key, 0)];
    if (i < end) {
      const int before = __popc(same & ((1u << lane) - 1));
      const int extra = kFault == Fault::kOffByOne && key == kKeys - 1;
      order[first[key] + *counter + before + extra] = i;
    }
    __syncwarp();
    const bool last = same >> lane == 1;
    if (i < end && last) *counter += __popc(same);
    __syncwarp();
  }
}

}  // namespace

int sort_by_key(Fault fault, const int* keys, int* order, int count) {
  const llada::cuda::LaunchConfig config{.grid = 1, .block = kThreads};
  switch (fault) {
    case Fault::kMissingBarrier:
      return llada::cuda::launch(config, sort_kernel<Fault::kMissingBarrier>, keys, order, count);
    case Fault::kOffByOne:
      return llada::cuda::launch(config, sort_kernel<Fault::kOffByOne>, keys, order, count);
    default:
      return llada::cuda::launch(config, sort_kernel<Fault::kNone>, keys, order, count);
  }
}

}  // namespace subjects

// attention in fp32: correct and simple, without tensor cores.
//
//   warp   one row, its query in shared memory; a lane has every 32nd component of the output
//   step   32 keys from the sequence's first on: a lane has one key's score and weight, which then go round the lanes
//          as each key's values are added. A step is summed by itself before it is added to the row's state
//
// The bits of a row depend on its own keys alone.
#include "attention/attention_rows.h"
#include "cuda/launch.h"
#include "cuda/pack.h"
#include "cuda/reduce.h"

namespace llada::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarpLanes, kMaxDepth = 256, kColumns = kMaxDepth / kWarpLanes;
constexpr std::int64_t kMaxBlocks = 0x7fffffff;

// Four chains of multiply-adds, so that none is long.
__device__ __forceinline__ float dot(const float* query, const float* key, int depth, bool aligned) {
  float sums[4] = {};
  for (int d = 0; d < depth; d += 4) {
    const auto pack = load_pack<4>(key + d, depth - d, aligned);
    const float4 other = *reinterpret_cast<const float4*>(query + d);
    sums[0] = fmaf(pack.elements[0], other.x, sums[0]);
    sums[1] = fmaf(pack.elements[1], other.y, sums[1]);
    sums[2] = fmaf(pack.elements[2], other.z, sums[2]);
    sums[3] = fmaf(pack.elements[3], other.w, sums[3]);
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

__global__ void __launch_bounds__(kThreads) attention_fp32_kernel(AttentionParams params, int tiles) {
  LLADA_SHARED_ARRAY(float4, queries, kWarps * kMaxDepth / 4);
  const AttentionRows rows = find_rows<kWarps>(params, tiles);
  const int warp = threadIdx.x / kWarpLanes, lane = threadIdx.x % kWarpLanes;
  if (warp >= rows.count) return;
  const HeadQuery at = head_query(params, rows, warp);
  auto* query = reinterpret_cast<float*>(queries + warp * (kMaxDepth / 4));
  const auto* q = head_row<const float>(params.q, rows.batch, at.query, at.head);
  const float sign = params.negative ? -1.0f : 1.0f;
  for (int d = lane; d < kMaxDepth; d += kWarpLanes) query[d] = d < params.depth ? q[d] * sign : 0.0f;
  __syncwarp();

  const int visible = visible_keys(params, rows, at.query);
  const std::uint8_t* mask = params.mask != nullptr ? mask_row(params, rows.batch, at) : nullptr;
  float output[kColumns] = {}, reference = -INFINITY, sum = 0.0f;
  for (int first = 0; first < visible; first += kWarpLanes) {
    const int count = min(visible - first, kWarpLanes);
    const std::int64_t position = std::int64_t{rows.first_key} + first;
    const bool seen = lane < count && (mask == nullptr || mask[(position + lane) * params.mask_strides[3]] != 0);
    float score = -INFINITY;
    if (seen) {
      const auto* key = head_row<const float>(params.k, rows.batch, position + lane, rows.key_head);
      score = dot(query, key, params.depth, params.aligned) * params.scale_log2;
    }
    const float before = reference;
    reference = fmaxf(before, warp_reduce(score, [](float a, float b) { return fmaxf(a, b); }));
    const float subtracted = reference == -INFINITY ? 0.0f : reference;
    const float factor = before == -INFINITY ? 0.0f : exp2f(before - subtracted);
    const float weight = exp2f(score - subtracted);
    sum = sum * factor + warp_sum(weight);
    float step[kColumns] = {};
    for (int i = 0; i < count; ++i) {
      const float other = __shfl_sync(kAllLanes, weight, i);
      const auto* value = head_row<const float>(params.v, rows.batch, position + i, rows.key_head);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int column = c * kWarpLanes + lane;
        if (column < params.depth) step[c] = fmaf(value[column], other, step[c]);
      }
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) output[c] = output[c] * factor + step[c];
  }
  auto* out = head_row<float>(params.out, rows.batch, at.query, at.head);
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int column = c * kWarpLanes + lane;
    if (column < params.depth) out[column] = sum == 0.0f ? 0.0f : output[c] / sum;
  }
}

}  // namespace

int attention_fp32_sm80(const AttentionParams& params) {
  const int tiles = row_tiles(params, kWarps);
  const std::int64_t blocks = static_cast<std::int64_t>(tiles) * params.batch * params.key_heads;
  if (blocks > kMaxBlocks) return cudaErrorInvalidConfiguration;
  const LaunchConfig config{dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, params.stream};
  return launch(config, attention_fp32_kernel, params, tiles);
}

}  // namespace llada::cuda

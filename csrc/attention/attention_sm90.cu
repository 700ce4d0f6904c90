// Flash attention for Hopper (after FlashAttention-3, 2407.08608), bf16 or fp16, fp32 softmax and sums, heads of up to
// 128 components: for calls whose keys are not split.
//
//   block       128 queries of a sequence and head against all of its keys; tiles of keys that the masks hide from all
//               of them are left out
//   producer    one warp of the first warpgroup: queries, then keys and values by tiles of 128, two stages of each, by
//               TMA; the rows of values past the sequence's end, which may be NaN and weigh zero, it zeroes itself
//   consumers   two warpgroups of 64 queries: scores = queries x keys^T by wgmma from shared memory, output += weights
//               x values with the weights in registers
//   overlap     a consumer issues a tile's scores and the output of the tile before, then hands the tensor cores to the
//               other, whose products run beside its softmax
//   tiles       of 64 components and 128 rows, swizzled by TMA over 128 bytes; a head has one or two of them
//
// A row's sums run over its keys in tiles from the sequence's first on: its bits depend on its own keys alone.
//
// Heads of more than 128 components, which no published model of this kind has, are attention_sm80.cu's: 128 keys and
// values of 256 fill a stage with 128 KB, and tiles of 64 would be a second kernel.
#include "attention/attention_block_sm90.h"
#include "attention/attention_softmax.h"
#include "cuda/launch.h"
#include "cuda/ptx_sm90.h"
#include "cuda/reduce.h"
#include "cuda/tensor_map.h"

namespace llada::cuda {
namespace {

constexpr int kConsumers = 2, kGroupThreads = 128, kThreads = (1 + kConsumers) * kGroupThreads;
constexpr int kGroupRows = 64, kRows = kConsumers * kGroupRows, kKeys = 128, kStages = 2;
constexpr int kRowBytes = 128, kPanelDepth = 64, kPanelBytes = 128 * kRowBytes;
constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
constexpr std::int64_t kMaxBlocks = 0x7fffffff;
static_assert(kRows == kKeys, "one shape of panel serves queries and keys");

template <int kDepth>
inline constexpr int kTileBytes = kDepth / kPanelDepth * kPanelBytes;

struct Maps {
  ptx::TensorMap queries, keys, values;
};

struct MapRows {
  std::int64_t queries, keys, values;  // from one sequence of the batch to the next, in rows of the map
  int group;                           // query heads per key head
};

struct Barriers {
  std::uint64_t queries, ragged_values;
  std::uint64_t keys_full[kStages], keys_empty[kStages], values_full[kStages], values_empty[kStages];
};

template <int kDepth>
class Shared {
 public:
  explicit __device__ Shared(char* start) : start_(start) {}
  __device__ char* queries() const { return start_; }
  __device__ char* keys(int stage) const { return start_ + (1 + stage) * kTileBytes<kDepth>; }
  __device__ char* values(int stage) const { return start_ + (1 + kStages + stage) * kTileBytes<kDepth>; }

 private:
  char* start_;
};

template <int kDepth>
__device__ __forceinline__ void load_tile(char* tile, const ptx::TensorMap& map, std::int64_t row, int head,
                                          std::uint64_t* barrier) {
  ptx::mbarrier_arrive_expect_tx(barrier, kTileBytes<kDepth>);
#pragma unroll
  for (int panel = 0; panel < kDepth / kPanelDepth; ++panel) {
    ptx::tma_load_3d(tile + panel * kPanelBytes, &map, panel * kPanelDepth, static_cast<int>(row), head, barrier);
  }
}

template <int kDepth>
__device__ __forceinline__ void produce(const Maps& maps, const MapRows& strides, const AttentionBlock& block,
                                        const Shared<kDepth>& shared, Barriers& barriers) {
  const AttentionRows& rows = block.rows;
  const int lane = threadIdx.x % kWarpLanes, key_head = rows.key_head / strides.group;
  const std::int64_t first_key = rows.batch * strides.keys + rows.first_key;
  const std::int64_t first_value = rows.batch * strides.values + rows.first_key;
  const auto load_keys = [&](int step, int tile) {
    const int stage = step % kStages;
    ptx::mbarrier_wait(barriers.keys_empty + stage, (step / kStages + 1) & 1);
    if (lane == 0) {
      load_tile<kDepth>(shared.keys(stage), maps.keys, first_key + tile * kKeys, key_head, barriers.keys_full + stage);
    }
  };
  const auto load_values = [&](int step, int tile) {
    const int stage = step % kStages, valid = rows.keys - tile * kKeys;
    ptx::mbarrier_wait(barriers.values_empty + stage, (step / kStages + 1) & 1);
    std::uint64_t* full = barriers.values_full + stage;
    std::uint64_t* loaded = valid < kKeys ? &barriers.ragged_values : full;
    char* values = shared.values(stage);
    if (lane == 0) load_tile<kDepth>(values, maps.values, first_value + tile * kKeys, key_head, loaded);
    if (valid >= kKeys) return;
    ptx::mbarrier_wait(loaded, 0);
    constexpr int kChunkBytes = 16, kChunks = kRowBytes / kChunkBytes;
    for (int i = valid * kChunks + lane; i < kKeys * kChunks; i += kWarpLanes) {
#pragma unroll
      for (int panel = 0; panel < kDepth / kPanelDepth; ++panel) {
        *reinterpret_cast<uint4*>(values + panel * kPanelBytes + i * kChunkBytes) = uint4{};
      }
    }
    ptx::fence_proxy_async();
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(full);
  };
  int tile = block.next_tile(-1);
  if (tile >= block.tiles) return;
  if (lane == 0) {
    load_tile<kDepth>(shared.queries(), maps.queries, rows.batch * strides.queries + rows.first_query + rows.first_row,
                      rows.key_head, &barriers.queries);
  }
  load_keys(0, tile);
  for (int step = 0; tile < block.tiles; ++step) {
    const int next = block.next_tile(tile);
    if (next < block.tiles) load_keys(step + 1, next);
    load_values(step, tile);
    tile = next;
  }
}

// A consumer's 64 queries; element i is of row lane / 4 + i / 2 % 2 * 8 of the warp's 16 and column
// i / 4 * 8 + lane % 4 * 2 + i % 2.
template <class Element, int kDepth>
class Consumer {
 public:
  __device__ Consumer(const AttentionParams& params, const AttentionBlock& block, const Shared<kDepth>& shared,
                      Barriers& barriers)
      : params_(params),
        block_(block),
        shared_(shared),
        barriers_(barriers),
        group_(static_cast<int>(threadIdx.x) / kGroupThreads - 1),
        first_row_(static_cast<int>(threadIdx.x - kGroupThreads) / kWarpLanes * 16 +
                   static_cast<int>(threadIdx.x) % kWarpLanes / 4) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row_ + half * 8;
      if (row < block.rows.count) {
        visible_[half] = visible_keys(params, block.rows, head_query(params, block.rows, row).query);
      }
    }
  }

  __device__ void run() {
    tile_ = block_.next_tile(-1);
    if (tile_ < block_.tiles) {
      ptx::mbarrier_wait(&barriers_.queries, 0);
      if (group_ != 0) pass_turn();
      multiply_first();
      int step = 1;
      for (tile_ = next_; tile_ < block_.tiles; tile_ = next_) multiply(step++);
      add_last(step - 1);
    }
    write();
  }

 private:
  // The tensor cores belong to one consumer at a time while it issues, group 0 first; barriers 1 and 2 say whose turn.
  __device__ void take_turn() const { ptx::barrier_sync(1 + group_, kConsumers * kGroupThreads); }
  __device__ void pass_turn() const { ptx::barrier_arrive(2 - group_, kConsumers * kGroupThreads); }
  __device__ void pass_turn_after_tile() {
    next_ = block_.next_tile(tile_);
    if (next_ < block_.tiles || group_ == 0) pass_turn();
  }

  __device__ void free(std::uint64_t* stage) const {
    if (threadIdx.x % kWarpLanes == 0) ptx::mbarrier_arrive(stage);
  }

  // scores = queries x keys^T, as a group of products.
  __device__ void issue_scores(int step) {
    const std::uint32_t queries = ptx::shared_address(shared_.queries()) + group_ * kGroupRows * kRowBytes;
    const std::uint32_t keys = ptx::shared_address(shared_.keys(step % kStages));
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      const std::uint32_t at = k / 4 * kPanelBytes + k % 4 * 32;
      ptx::wgmma<Element, kKeys>(scores_, ptx::tile_descriptor(queries + at), ptx::tile_descriptor(keys + at), k != 0);
    }
    ptx::wgmma_commit_group();
  }

  // output += weights x values.
  __device__ void issue_output(int step) {
    const std::uint32_t values = ptx::shared_address(shared_.values(step % kStages));
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      const std::uint64_t rows = ptx::tile_descriptor(values + k * 16 * kRowBytes, kPanelBytes);
      ptx::wgmma<Element, kDepth, ptx::Major::kMN>(output_, weights_[k], rows, true);
    }
    ptx::wgmma_commit_group();
  }

  __device__ void wait_for_keys(int step) {
    ptx::mbarrier_wait(barriers_.keys_full + step % kStages, step / kStages & 1);
  }
  __device__ void wait_for_values(int step) {
    ptx::mbarrier_wait(barriers_.values_full + step % kStages, step / kStages & 1);
  }

  __device__ void multiply_first() {
    wait_for_keys(0);
    take_turn();
    issue_scores(0);
    pass_turn_after_tile();
    ptx::wgmma_wait_group<0>();
    free(barriers_.keys_empty);
    float factors[2];
    weigh(factors);
    pack_weights();
  }

  __device__ void multiply(int step) {
    wait_for_keys(step);
    wait_for_values(step - 1);
    take_turn();
    issue_scores(step);
    issue_output(step - 1);
    pass_turn_after_tile();
    ptx::wgmma_wait_group<1>();
    free(barriers_.keys_empty + step % kStages);
    float factors[2];
    weigh(factors);
    ptx::wgmma_wait_group<0>();
    free(barriers_.values_empty + (step - 1) % kStages);
#pragma unroll
    for (int i = 0; i < kDepth / 2; ++i) output_[i] *= factors[i / 2 % 2];
    pack_weights();
  }

  __device__ void add_last(int step) {
    wait_for_values(step);
    issue_output(step);
    ptx::wgmma_wait_group<0>();
  }

  __device__ void weigh(float (&factors)[2]) {
    const int first_key = tile_ * kKeys;
    if (params_.negative) {
#pragma unroll
      for (float& score : scores_) score = -score;
    }
    const bool whole = first_key + kKeys <= block_.least && params_.mask == nullptr;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto score = [&](int i) -> float& { return scores_[i / 2 * 4 + half * 2 + i % 2]; };
      if (!whole) hide(score, half, first_key);
      factors[half] = weigh_row<kKeys / 4>(score, params_.scale_log2, reference_[half], sum_[half]);
    }
  }

  // Minus infinity for the keys that the row does not see.
  template <class Score>
  __device__ void hide(Score score, int half, int first_key) const {
    const int left = visible_[half] - first_key, row = first_row_ + half * 8;
    const std::uint8_t* mask = nullptr;
    if (params_.mask != nullptr && row < block_.rows.count) {
      mask = mask_row(params_, block_.rows.batch, head_query(params_, block_.rows, row)) +
             (std::int64_t{block_.rows.first_key} + first_key) * params_.mask_strides[3];
    }
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) {
      const int key = i / 2 * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i % 2;
      const bool seen = key < left && (mask == nullptr || mask[key * params_.mask_strides[3]] != 0);
      if (!seen) score(i) = -INFINITY;
    }
  }

  __device__ void pack_weights() {
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weights_[k][i] = pack_pair<Element>(scores_[k * 8 + i * 2], scores_[k * 8 + i * 2 + 1]);
      }
    }
  }

  __device__ void write() const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = warp_sum<4>(sum_[half]);
      const int row = first_row_ + half * 8;
      if (row >= block_.rows.count) continue;
      const HeadQuery at = head_query(params_, block_.rows, row);
      Element* out = head_row<Element>(params_.out, block_.rows.batch, at.query, at.head);
      write_row<Element, kDepth / 4>(params_, out, sum, [&](int i) { return output_[i / 2 * 4 + half * 2 + i % 2]; });
    }
  }

  const AttentionParams& params_;
  const AttentionBlock& block_;
  const Shared<kDepth>& shared_;
  Barriers& barriers_;
  int group_, first_row_, visible_[2] = {};
  int tile_, next_;  // at hand, and the one after
  float scores_[kKeys / 2], output_[kDepth / 2] = {};
  std::uint32_t weights_[kKeys / 16][4];
  float reference_[2] = {-INFINITY, -INFINITY}, sum_[2] = {};
};

template <class Element, int kDepth>
__global__ void __launch_bounds__(kThreads, 1)
    attention_kernel(const __grid_constant__ Maps maps, AttentionParams params, MapRows strides, int tiles) {
  LLADA_DYNAMIC_SHARED(char, start);
  LLADA_SHARED_ARRAY(Barriers, barriers, 1);
  LLADA_SHARED_ARRAY(AttentionBlock, block, 1);
  if (threadIdx.x == 0) {
    place_block<kRows, kKeys>(params, *block, tiles);
    ptx::mbarrier_init(&barriers->queries, 1);
    ptx::mbarrier_init(&barriers->ragged_values, 1);
    for (int stage = 0; stage < kStages; ++stage) {
      ptx::mbarrier_init(barriers->keys_full + stage, 1);
      ptx::mbarrier_init(barriers->values_full + stage, 1);
      ptx::mbarrier_init(barriers->keys_empty + stage, kConsumers * kGroupThreads / kWarpLanes);
      ptx::mbarrier_init(barriers->values_empty + stage, kConsumers * kGroupThreads / kWarpLanes);
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  if (block->rows.count == 0) return;
  if (block->searched > 0) search_tiles<kKeys, kThreads>(params, *block);
  const Shared<kDepth> shared(start);
  if (threadIdx.x < kGroupThreads) {
    ptx::set_max_registers_down<kProducerRegisters>();
    if (threadIdx.x < kWarpLanes) produce<kDepth>(maps, strides, *block, shared, *barriers);
  } else {
    ptx::set_max_registers_up<kConsumerRegisters>();
    Consumer<Element, kDepth>(params, *block, shared, *barriers).run();
  }
}

// Heads as planes of one matrix whose rows are the positions of all sequences.
int make_map(ptx::TensorMap* map, std::int64_t* batch_rows, const HeadsArray& array, const AttentionParams& params,
             std::int64_t positions, std::int64_t heads) {
  *batch_rows = params.batch > 1 ? array.batch_stride / array.position_stride : 0;
  constexpr int kBytes = 2;
  return make_tensor_map(map, {.base = array.data,
                               .element_bytes = kBytes,
                               .columns = params.depth,
                               .rows = (params.batch - 1) * *batch_rows + positions,
                               .row_bytes = array.position_stride * kBytes,
                               .box_rows = kKeys,
                               .planes = heads,
                               .plane_bytes = array.head_stride * kBytes});
}

template <class Element, int kDepth>
int launch_depth(const AttentionParams& params) {
  Maps maps;
  MapRows strides{0, 0, 0, params.heads / params.key_heads};
  if (const int error = make_map(&maps.queries, &strides.queries, params.q, params, params.queries, params.heads)) {
    return error;
  }
  if (const int error = make_map(&maps.keys, &strides.keys, params.k, params, params.keys, params.key_heads)) {
    return error;
  }
  if (const int error = make_map(&maps.values, &strides.values, params.v, params, params.keys, params.key_heads)) {
    return error;
  }
  AttentionParams by_head = params;  // a block's rows are of one query head: TMA brings them as one matrix
  by_head.key_heads = params.heads;
  const int tiles = row_tiles(by_head, kRows);
  const std::int64_t blocks = static_cast<std::int64_t>(tiles) * params.batch * params.heads;
  if (blocks > kMaxBlocks) return cudaErrorInvalidConfiguration;
  const LaunchConfig config{dim3(static_cast<unsigned>(blocks)), dim3(kThreads), (1 + 2 * kStages) * kTileBytes<kDepth>,
                            params.stream};
  return launch(config, attention_kernel<Element, kDepth>, maps, by_head, strides, tiles);
}

template <class Element>
int launch_element(const AttentionParams& params) {
  return params.depth <= 64 ? launch_depth<Element, 64>(params) : launch_depth<Element, 128>(params);
}

}  // namespace

int attention_sm90(const AttentionParams& params) {
  if (params.dtype == DType::kBFloat16) return launch_element<__nv_bfloat16>(params);
  return launch_element<__half>(params);
}

}  // namespace llada::cuda

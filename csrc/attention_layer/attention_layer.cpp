// update, residual --add_rms_norm--> normed --linear--> qkv --qk_norm_rope--> q, k --(cache)--> attention --linear-->
// out
#include "attention_layer/attention_layer.h"

#include <cstring>
#include <string>
#include <utility>

#include "attention/attention.h"
#include "attention/attention_plan.h"
#include "common/check.h"
#include "common/parallel.h"
#include "cpu/panel_weights.h"
#include "cpu/scratch_array.h"
#include "linear/linear.h"
#include "norm_rope/norm_rope.h"

namespace llada {
namespace {

constexpr const char* kOp = "attention_layer";
constexpr std::int64_t kMaxHeads = 1 << 16;

void check_cache(const AttentionLayerArgs& args) {
  const ArrayView &cache = args.cache, &positions = args.positions;
  Check(kOp, "cache", cache).cpu().dtype({args.residual.dtype}).last_dim_contiguous();
  Check(kOp, "cache", cache).shape({2, positions.size(0), kAnySize, args.key_heads, args.head_size});
  for (std::int64_t b = 0; b < positions.size(0); ++b) {
    for (std::int64_t s = 0; s < positions.size(1); ++s) {
      const std::int64_t position = index_at(positions, b, s);
      if (position < 0) Check(kOp, "positions", positions).fail_value("not be negative", std::to_string(position));
    }
  }
}

// What decides how much memory the call takes; the ops check the rest.
void check(const AttentionLayerArgs& args) {
  const ArrayView& residual = args.residual;
  Check(kOp, "residual", residual).cpu().dtype({DType::kFloat32, DType::kBFloat16});
  Check(kOp, "residual", residual).shape({kAnySize, kAnySize, kAnySize}).contiguous();
  const std::int64_t hidden = residual.size(2);
  for (const auto& [name, count] : {std::pair{"heads", args.heads}, std::pair{"key_heads", args.key_heads}}) {
    require(kOp, name, count >= 1 && count <= kMaxHeads, "within 1 and 65536", std::to_string(count));
  }
  require(kOp, "head_size", args.head_size >= 1 && args.head_size <= kMaxHeadSize, "within 1 and 256",
          std::to_string(args.head_size));
  const std::int64_t columns = (args.heads + 2 * args.key_heads) * args.head_size;
  packed_weights(kOp, "qkv_weight", args.qkv_weight, -1, columns, hidden, false, residual.dtype);
  packed_weights(kOp, "out_weight", args.out_weight, -1, hidden, args.heads * args.head_size, false, residual.dtype);
  Check(kOp, "positions", args.positions).cpu().dtype({DType::kInt32, DType::kInt64});
  Check(kOp, "positions", args.positions).shape({residual.size(0), residual.size(1)});
  if (args.cache.defined()) check_cache(args);
}

// Some of the heads of a contiguous [B, S, columns], as [B, S, count, D].
ArrayView heads_of(const ArrayView& qkv, std::int64_t first, std::int64_t count, std::int64_t head_size) {
  ArrayView heads = qkv;
  heads.data = qkv.as<char>() + first * head_size * dtype_bytes(qkv.dtype);
  heads.rank = 4;
  heads.sizes[2] = count;
  heads.sizes[3] = head_size;
  heads.strides[2] = head_size;
  heads.strides[3] = 1;
  return heads;
}

// The keys (0) or values (1) of a cache: [B, L, Hkv, D].
ArrayView side_of(const ArrayView& cache, int side) {
  ArrayView part = cache;
  part.data = cache.as<char>() + side * cache.stride(0) * dtype_bytes(cache.dtype);
  part.rank = 4;
  for (int dim = 0; dim < part.rank; ++dim) {
    part.sizes[dim] = cache.size(dim + 1);
    part.strides[dim] = cache.stride(dim + 1);
  }
  return part;
}

// Stores the tokens of one row in order, so that the last of several at one position stays.
void store_row(const ArrayView& source, const ArrayView& positions, std::int64_t b, const ArrayView& stored) {
  const std::int64_t bytes = dtype_bytes(source.dtype), head_bytes = source.size(3) * bytes;
  for (std::int64_t s = 0; s < source.size(1); ++s) {
    const std::int64_t position = index_at(positions, b, s);
    if (position >= stored.size(1)) continue;
    const char* from = source.as<char>() + (b * source.stride(0) + s * source.stride(1)) * bytes;
    char* to = stored.as<char>() + (b * stored.stride(0) + position * stored.stride(1)) * bytes;
    for (std::int64_t h = 0; h < source.size(2); ++h) {
      std::memcpy(to + h * stored.stride(2) * bytes, from + h * source.stride(2) * bytes, head_bytes);
    }
  }
}

void store(const ArrayView& k, const ArrayView& v, const ArrayView& positions, const ArrayView& cache) {
  const ArrayView keys = side_of(cache, 0), values = side_of(cache, 1);
  const std::int64_t row_elements = k.size(1) * k.size(2) * k.size(3);
  parallel_for(0, 2 * k.size(0), grain_of(row_elements / 16), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t item = begin; item < end; ++item) {
      const bool is_value = item % 2 != 0;
      store_row(is_value ? v : k, positions, item / 2, is_value ? values : keys);
    }
  });
}

}  // namespace

void attention_layer(const AttentionLayerArgs& args) {
  check(args);
  const DType dtype = args.residual.dtype;
  const std::int64_t batch = args.residual.size(0), length = args.residual.size(1), hidden = args.residual.size(2);
  const std::int64_t heads = args.heads, key_heads = args.key_heads, size = args.head_size;
  const ScratchArray normed(dtype, {batch, length, hidden});
  const ScratchArray qkv(dtype, {batch, length, (heads + 2 * key_heads) * size});
  const ScratchArray q(dtype, {batch, length, heads, size}), k(dtype, {batch, length, key_heads, size});
  const ScratchArray attended(dtype, {batch, length, heads, size});

  if (args.update.defined()) {
    rms_norm({args.update, args.residual, args.norm_weight, args.eps, normed.view(), args.total});
  } else {
    rms_norm({args.residual, {}, args.norm_weight, args.eps, normed.view(), {}});
  }
  linear({normed.view(), args.qkv_weight, true, args.qkv_bias, qkv.view()});
  qk_norm_rope({heads_of(qkv.view(), 0, heads, size), heads_of(qkv.view(), heads, key_heads, size), args.q_weight,
                args.k_weight, args.positions, args.frequencies, args.eps, std::nullopt, q.view(), k.view()});
  ArrayView keys = k.view(), values = heads_of(qkv.view(), heads + key_heads, key_heads, size);
  if (args.cache.defined()) {
    store(keys, values, args.positions, args.cache);
    keys = side_of(args.cache, 0);
    values = side_of(args.cache, 1);
  }
  attention({q.view(), keys, values, {}, args.key_range, {}, 0, std::nullopt, attended.view()});
  const ArrayView rows = contiguous_view(attended.view().data, dtype, {batch, length, heads * size});
  linear({rows, args.out_weight, true, args.out_bias, args.out});
}

}  // namespace llada

#include "permute/permute.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "common/bfloat16.h"
#include "common/check.h"
#include "common/parallel.h"
#include "permute/expert_sort.h"

namespace llada {
namespace {

template <class Index>
void order_experts(const ExpertOrderArgs& args) {
  const auto* experts = args.experts.as<Index>();
  const std::int64_t assignments = args.experts.elements();
  check_range("expert_order", "experts", experts, assignments, args.num_experts);
  std::vector<std::int32_t> offsets(args.num_experts + 2);
  sort_by_expert(experts, assignments, args.num_experts, offsets.data(), args.order.as<std::int32_t>());
  std::copy_n(offsets.begin(), args.num_experts + 1, args.offsets.as<std::int32_t>());
}

// Which row of y_sorted holds each assignment; -1 where none does.
std::vector<std::int32_t> invert(const UnpermuteArgs& args) {
  const auto* order = args.order.as<std::int32_t>();
  std::vector<std::int32_t> row_of(args.weights.elements(), -1);
  for (std::int64_t row = 0; row < args.order.size(0); ++row) {
    if (row_of[order[row]] >= 0) {
      require("unpermute", "order", false, "without repetition", std::to_string(order[row]) + " twice");
    }
    row_of[order[row]] = static_cast<std::int32_t>(row);
  }
  return row_of;
}

float weight_at(const ArrayView& weights, std::int64_t assignment) {
  return weights.dtype == DType::kFloat32 ? weights.as<float>()[assignment]
                                          : to_float(weights.as<bfloat16>()[assignment]);
}

template <class Element>
void sum_rows(const UnpermuteArgs& args, const std::vector<std::int32_t>& row_of, std::int64_t begin,
              std::int64_t end) {
  const std::int64_t k = args.weights.size(1), hidden = args.y_sorted.size(1);
  std::vector<float> sum(hidden);
  for (std::int64_t token = begin; token < end; ++token) {
    std::fill(sum.begin(), sum.end(), 0.0f);
    for (std::int64_t a = token * k; a < (token + 1) * k; ++a) {
      if (row_of[a] < 0) continue;
      const float weight = weight_at(args.weights, a);
      const auto* row = args.y_sorted.as<Element>() + row_of[a] * args.y_sorted.stride(0);
      for (std::int64_t i = 0; i < hidden; ++i) sum[i] += to_float(row[i]) * weight;
    }
    auto* out = args.out.as<Element>() + token * hidden;
    for (std::int64_t i = 0; i < hidden; ++i) out[i] = from_float<Element>(sum[i]);
  }
}

}  // namespace

// The checks of all but values, which a GPU's are not read for.
void check_expert_order(const ExpertOrderArgs& args, const Backend& backend) {
  constexpr const char* kOp = "expert_order";
  Check(kOp, "experts", args.experts).on(backend).dtype({DType::kInt32, DType::kInt64}).shape({kAnySize, kAnySize});
  Check(kOp, "experts", args.experts).contiguous();
  const std::int64_t assignments = args.experts.elements();
  require(kOp, "experts", assignments <= std::numeric_limits<std::int32_t>::max(), "of fewer than 2^31 assignments",
          std::to_string(assignments));
  require(kOp, "num_experts", args.num_experts >= 1 && args.num_experts <= (1 << 24), "within 1 and 2^24",
          std::to_string(args.num_experts));
  Check(kOp, "order", args.order).on(backend).dtype({DType::kInt32}).shape({assignments}).contiguous();
  Check(kOp, "offsets", args.offsets).on(backend).dtype({DType::kInt32}).shape({args.num_experts + 1}).contiguous();
}

void expert_order(const ExpertOrderArgs& args) {
  check_expert_order(args, kCpuBackend);
  if (args.experts.dtype == DType::kInt64) {
    order_experts<std::int64_t>(args);
  } else {
    order_experts<std::int32_t>(args);
  }
}

void check_permute(const PermuteArgs& args, const Backend& backend) {
  constexpr const char* kOp = "permute";
  Check(kOp, "x", args.x).on(backend).floating(backend).shape({kAnySize, kAnySize}).last_dim_contiguous();
  Check(kOp, "order", args.order).on(backend).dtype({DType::kInt32}).shape({kAnySize}).contiguous();
  require(kOp, "k", args.k >= 1, "at least 1", std::to_string(args.k));
  Check(kOp, "out", args.out).on(backend).dtype({args.x.dtype}).shape({args.order.size(0), args.x.size(1)});
  Check(kOp, "out", args.out).contiguous();
}

void permute(const PermuteArgs& args) {
  check_permute(args, kCpuBackend);
  constexpr std::int64_t kLargestIndex = std::numeric_limits<std::int32_t>::max();
  const std::int64_t rows = args.order.size(0), tokens = args.x.size(0), hidden = args.x.size(1);
  // The product itself may not fit 64 bits.
  const std::int64_t highest = tokens > kLargestIndex / args.k ? kLargestIndex : tokens * args.k - 1;
  check_range("permute", "order", args.order.as<std::int32_t>(), rows, highest);
  const std::int64_t bytes = dtype_bytes(args.x.dtype);
  parallel_for(0, rows, grain_of(hidden), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t token = args.order.as<std::int32_t>()[row] / args.k;
      std::memcpy(args.out.as<char>() + row * hidden * bytes, args.x.as<char>() + token * args.x.stride(0) * bytes,
                  hidden * bytes);
    }
  });
}

void check_unpermute(const UnpermuteArgs& args, const Backend& backend) {
  constexpr const char* kOp = "unpermute";
  Check(kOp, "y_sorted", args.y_sorted).on(backend).floating(backend).shape({kAnySize, kAnySize});
  Check(kOp, "y_sorted", args.y_sorted).last_dim_contiguous();
  const std::int64_t rows = args.y_sorted.size(0), hidden = args.y_sorted.size(1);
  Check(kOp, "order", args.order).on(backend).dtype({DType::kInt32}).shape({rows}).contiguous();
  Check(kOp, "weights", args.weights).on(backend).floating(backend).shape({kAnySize, kAnySize}).contiguous();
  Check(kOp, "out", args.out).on(backend).dtype({args.y_sorted.dtype}).shape({args.weights.size(0), hidden});
  Check(kOp, "out", args.out).contiguous();
}

void unpermute(const UnpermuteArgs& args) {
  check_unpermute(args, kCpuBackend);
  const std::int64_t hidden = args.y_sorted.size(1);
  check_range("unpermute", "order", args.order.as<std::int32_t>(), args.order.size(0), args.weights.elements() - 1);
  const std::vector<std::int32_t> row_of = invert(args);
  parallel_for(0, args.weights.size(0), grain_of(hidden * args.weights.size(1)),
               [&](std::int64_t begin, std::int64_t end) {
                 if (args.y_sorted.dtype == DType::kFloat32) {
                   sum_rows<float>(args, row_of, begin, end);
                 } else {
                   sum_rows<bfloat16>(args, row_of, begin, end);
                 }
               });
}

}  // namespace llada

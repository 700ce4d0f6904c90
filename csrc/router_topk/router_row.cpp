#include "router_topk/router_row.h"

#include <cmath>
#include <limits>

#include "common/bfloat16.h"

namespace llada {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Falling order with NaN first.
bool precedes(float a, float b) { return a > b || (std::isnan(a) && !std::isnan(b)); }

// Indices of the `count` first of values in that order, equal ones by lower index: insertion into a short sorted list.
void select_best(const float* values, std::int64_t size, std::int64_t count, std::int32_t* best) {
  std::int64_t filled = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    if (filled == count && !precedes(values[i], values[best[count - 1]])) continue;
    std::int64_t place = filled < count ? filled++ : count - 1;
    for (; place > 0 && precedes(values[i], values[best[place - 1]]); --place) best[place] = best[place - 1];
    best[place] = static_cast<std::int32_t>(i);
  }
}

float two_best_sum(const float* values, std::int64_t size) {
  std::int32_t best[2];
  const std::int64_t count = size < 2 ? size : 2;
  select_best(values, size, count, best);
  return count == 2 ? values[best[0]] + values[best[1]] : values[best[0]];
}

}  // namespace

RouterRow::RouterRow(const RouterTopkArgs& args, std::int64_t num_experts)
    : args_(args),
      kernels_(select_router_row_kernels(active_isa())),
      num_experts_(num_experts),
      scores_(expert_lanes(num_experts)),
      selection_(expert_lanes(num_experts)),
      group_scores_(args.num_groups),
      kept_groups_(args.topk_groups) {
  if (!args.bias.defined()) return;
  bias_.resize(num_experts);
  for (std::int64_t e = 0; e < num_experts; ++e) {
    const std::int64_t offset = e * args.bias.stride(0);
    bias_[e] =
        args.bias.dtype == DType::kFloat32 ? args.bias.as<float>()[offset] : to_float(args.bias.as<bfloat16>()[offset]);
  }
}

void RouterRow::add_bias() {
  selection_ = scores_;
  if (bias_.empty()) return;
  for (std::size_t e = 0; e < bias_.size(); ++e) selection_[e] += bias_[e];
  if (args_.bias_in_weights) scores_ = selection_;
}

void RouterRow::keep_best_groups() {
  const std::int64_t size = num_experts_ / args_.num_groups;
  for (std::int64_t g = 0; g < args_.num_groups; ++g) group_scores_[g] = two_best_sum(&selection_[g * size], size);
  select_best(group_scores_.data(), args_.num_groups, args_.topk_groups, kept_groups_.data());
  std::vector<bool> kept(args_.num_groups);
  for (const std::int32_t g : kept_groups_) kept[g] = true;
  for (std::int64_t e = 0; e < num_experts_; ++e) {
    if (!kept[e / size]) selection_[e] = -kInfinity;
  }
}

void RouterRow::route(float* weights, std::int32_t* experts) {
  (args_.score == RouterScore::kSoftmax ? kernels_.softmax : kernels_.sigmoid)(scores_.data(), num_experts_);
  add_bias();
  if (args_.num_groups > 1) keep_best_groups();
  if (!kernels_.select_largest(selection_.data(), num_experts_, args_.k, experts)) {
    select_best(selection_.data(), num_experts_, args_.k, experts);
  }
  float sum = 0.0f;
  for (std::int64_t slot = 0; slot < args_.k; ++slot) sum += weights[slot] = scores_[experts[slot]];
  const float divisor = sum + 1e-20f, scale = static_cast<float>(args_.scale);
  for (std::int64_t slot = 0; slot < args_.k; ++slot) {
    weights[slot] = (args_.renormalize ? weights[slot] / divisor : weights[slot]) * scale;
  }
}

}  // namespace llada

// One token's routing: scores, optional groups, the k best, their weights.
#pragma once

#include <cstdint>
#include <vector>

#include "router_topk/router_row_kernels.h"
#include "router_topk/router_topk.h"

namespace llada {

class RouterRow {
 public:
  RouterRow(const RouterTopkArgs& args, std::int64_t num_experts);

  // The E logits of the row to route; fill them, then call route.
  float* logits() { return scores_.data(); }
  void route(float* weights, std::int32_t* experts);

 private:
  void keep_best_groups();
  void add_bias();

  const RouterTopkArgs& args_;
  const RouterRowKernels& kernels_;
  std::int64_t num_experts_;
  std::vector<float> scores_;     // logits, then scores; with room for expert_lanes
  std::vector<float> selection_;  // what the choice looks at; likewise
  std::vector<float> bias_;
  std::vector<float> group_scores_;
  std::vector<std::int32_t> kept_groups_;
};

}  // namespace llada

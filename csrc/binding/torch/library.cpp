// Loading this library puts the core's loops on torch's own thread pool, so that one pool serves both. Each op
// registers itself in a file of its own.
#include "binding/torch/views.h"
#include "common/parallel.h"

namespace {

void torch_loop(std::int64_t begin, std::int64_t end, std::int64_t grain, llada::RangeBody body) {
  torch::stable::parallel_for(begin, end, grain, body);
}

int torch_threads() { return static_cast<int>(torch::stable::get_num_threads()); }

const bool installed = (llada::set_parallel_backend({torch_loop, torch_threads}), true);

}  // namespace

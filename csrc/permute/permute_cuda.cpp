#include "permute/permute_cuda.h"

#include <algorithm>
#include <limits>
#include <string>

#include "cuda/launch_report.h"
#include "permute/permute.h"

namespace llada::cuda {
namespace {

void require_int32(const char* op, const char* argument, std::int64_t count) {
  require(op, argument, count <= std::numeric_limits<std::int32_t>::max(), "of fewer than 2^31 entries on a GPU",
          std::to_string(count));
}

std::int64_t divide_up(std::int64_t value, std::int64_t divisor) { return (value + divisor - 1) / divisor; }

}  // namespace

ExpertOrderParams expert_order_params(const ExpertOrderArgs& args, const Stream& stream) {
  constexpr const char* kOp = "expert_order";
  const Backend backend = backend_of(args.experts);
  check_expert_order(args, backend);
  require(kOp, "num_experts", args.num_experts <= kMaxSortedExperts,
          "at most " + std::to_string(kMaxSortedExperts) + " on a GPU", std::to_string(args.num_experts));
  const std::int64_t assignments = args.experts.elements();
  const auto blocks = std::clamp<std::int64_t>(divide_up(assignments, kSortChunk), 1, kMaxSortBlocks);
  const std::int64_t chunk = divide_up(divide_up(assignments, blocks), kSortChunkMultiple) * kSortChunkMultiple;
  return {args.experts.data,
          args.experts.dtype == DType::kInt64,
          assignments,
          static_cast<int>(args.num_experts),
          args.order.as<std::int32_t>(),
          args.offsets.as<std::int32_t>(),
          blocks,
          chunk,
          stream.handle};
}

void expert_order(const ExpertOrderArgs& args, const Stream& stream) {
  report("expert_order", expert_order_sm80(expert_order_params(args, stream)), stream);
}

void permute(const PermuteArgs& args, const Stream& stream) {
  constexpr const char* kOp = "permute";
  check_permute(args, backend_of(args.x));
  require_int32(kOp, "order", args.order.size(0));
  if (args.out.elements() == 0) return;
  report(kOp,
         permute_sm80({static_cast<int>(dtype_bytes(args.x.dtype)), args.x.data, args.x.stride(0),
                       args.order.as<std::int32_t>(), args.out.data, args.x.size(0), args.k, args.order.size(0),
                       args.x.size(1), stream.handle}),
         stream);
}

void unpermute(const UnpermuteArgs& args, const ArrayView& workspace, const Stream& stream) {
  constexpr const char* kOp = "unpermute";
  const Backend backend = backend_of(args.y_sorted);
  check_unpermute(args, backend);
  Check(kOp, "workspace", workspace).on(backend).dtype({DType::kInt32}).shape({args.weights.elements()}).contiguous();
  require_int32(kOp, "weights", args.weights.elements());
  require_int32(kOp, "order", args.order.size(0));
  if (args.out.elements() == 0) return;
  report(kOp,
         unpermute_sm80({args.y_sorted.dtype, args.y_sorted.data, args.y_sorted.stride(0),
                         args.order.as<std::int32_t>(), args.weights.dtype, args.weights.data,
                         workspace.as<std::int32_t>(), args.out.data, args.weights.size(0), args.weights.size(1),
                         args.order.size(0), args.y_sorted.size(1), stream.handle}),
         stream);
}

}  // namespace llada::cuda

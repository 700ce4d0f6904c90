#include <string>

#include "common/check.h"
#include "common/parallel.h"
#include "norm_rope/norm_rope.h"
#include "norm_rope/row_kernels.h"

namespace llada {
namespace {

void check_like(const char* op, const char* name, const ArrayView& view, const ArrayView& like,
                const Backend& backend) {
  Check(op, name, view).on(backend).dtype({like.dtype}).contiguous();
  bool same = view.rank == like.rank;
  for (int dim = 0; same && dim < like.rank; ++dim) same = view.size(dim) == like.size(dim);
  require(op, name, same, "of shape " + shape_text(like), shape_text(view));
}

}  // namespace

void check_rms_norm(const RmsNormArgs& args, const Backend& backend) {
  const char* op = args.op();
  Check(op, "x", args.x).on(backend).floating(backend).contiguous();
  require(op, "x", args.x.rank >= 1, "of at least one dimension", "a scalar");
  const std::int64_t hidden = args.x.size(args.x.rank - 1);
  require(op, "x", hidden >= 1, "of a last dimension of at least 1", std::to_string(hidden));
  require(op, "eps", args.eps >= 0.0, "not negative", std::to_string(args.eps));
  Check(op, "weight", args.weight).on(backend).dtype({args.x.dtype}).shape({hidden}).contiguous();
  check_like(op, "out", args.out, args.x, backend);
  if (args.residual.defined()) {
    check_like(op, "residual", args.residual, args.x, backend);
    check_like(op, "total", args.total, args.x, backend);
  }
}

void rms_norm(const RmsNormArgs& args) {
  check_rms_norm(args, kCpuBackend);
  const std::int64_t hidden = args.x.size(args.x.rank - 1);
  const RowKernels& kernels = select_row_kernels(args.x.dtype, active_isa());
  const std::int64_t row_bytes = hidden * dtype_bytes(args.x.dtype);
  const auto row_of = [row_bytes](const ArrayView& view, std::int64_t row) -> char* {
    return view.defined() ? view.as<char>() + row * row_bytes : nullptr;
  };
  parallel_for(0, args.x.elements() / hidden, grain_of(hidden), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      kernels.norm_row({row_of(args.x, row), row_of(args.residual, row), args.weight.data, row_of(args.total, row),
                        row_of(args.out, row), hidden, static_cast<float>(args.eps)});
    }
  });
}

}  // namespace llada

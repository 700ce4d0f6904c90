#include <cmath>
#include <cstring>
#include <string>

#include "common/check.h"
#include "common/parallel.h"
#include "norm_rope/norm_row.h"

namespace llada {
namespace {

template <class Element>
void norm_rows(const RmsNormArgs& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t hidden = args.weight.size(0);
  for (std::int64_t row = begin; row < end; ++row) {
    const Element* source = args.x.as<Element>() + row * hidden;
    if (args.residual.defined()) {
      const Element* residual = args.residual.as<Element>() + row * hidden;
      Element* total = args.total.as<Element>() + row * hidden;
      for (std::int64_t i = 0; i < hidden; ++i) {
        total[i] = from_float<Element>(to_float(source[i]) + to_float(residual[i]));
      }
      source = total;
    }
    normalise_row(source, args.weight.as<Element>(), hidden, static_cast<float>(args.eps),
                  args.out.as<Element>() + row * hidden);
  }
}

void check_like(const char* op, const char* name, const ArrayView& view, const ArrayView& like) {
  Check(op, name, view).cpu().dtype({like.dtype}).contiguous();
  bool same = view.rank == like.rank;
  for (int dim = 0; same && dim < like.rank; ++dim) same = view.size(dim) == like.size(dim);
  require(op, name, same, "of shape " + shape_text(like), shape_text(view));
}

}  // namespace

void rms_norm(const RmsNormArgs& args) {
  const char* op = args.residual.defined() ? "add_rms_norm" : "rms_norm";
  Check(op, "x", args.x).cpu().dtype({DType::kFloat32, DType::kBFloat16}).contiguous();
  require(op, "x", args.x.rank >= 1, "of at least one dimension", "a scalar");
  const std::int64_t hidden = args.x.size(args.x.rank - 1);
  require(op, "x", hidden >= 1, "of a last dimension of at least 1", std::to_string(hidden));
  Check(op, "weight", args.weight).cpu().dtype({args.x.dtype}).shape({hidden}).contiguous();
  check_like(op, "out", args.out, args.x);
  if (args.residual.defined()) {
    check_like(op, "residual", args.residual, args.x);
    check_like(op, "total", args.total, args.x);
  }
  parallel_for(0, args.x.elements() / hidden, grain_of(hidden), [&](std::int64_t begin, std::int64_t end) {
    if (args.x.dtype == DType::kFloat32) {
      norm_rows<float>(args, begin, end);
    } else {
      norm_rows<bfloat16>(args, begin, end);
    }
  });
}

}  // namespace llada

#include "common/rows.h"

#include "common/check.h"

namespace llada {

Rows collapse_rows(const char* op, const char* argument, const ArrayView& view) {
  const Check check(op, argument, view);
  if (view.rank < 1) check.fail_value("have at least one dimension", shape_text(view));
  check.last_dim_contiguous();
  Rows rows{1, view.size(view.rank - 1)};
  bool first = true;
  if (view.elements() == 0) {
    for (int dim = 0; dim + 1 < view.rank; ++dim) rows.count *= view.size(dim);
    return rows;
  }
  for (int dim = view.rank - 2; dim >= 0; --dim) {
    if (view.size(dim) == 1) continue;
    if (first) {
      rows.stride = view.stride(dim);
    } else if (view.stride(dim) != rows.stride * rows.count) {
      check.fail_value("have evenly spaced rows (call .contiguous())", "shape " + shape_text(view));
    }
    first = false;
    rows.count *= view.size(dim);
  }
  return rows;
}

}  // namespace llada

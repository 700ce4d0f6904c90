// The leading dimensions of an array seen as one: [.., K] as rows of K at an even distance.
#pragma once

#include "common/array_view.h"

namespace llada {

struct Rows {
  std::int64_t count;
  std::int64_t stride;  // in elements
};

// Throws ValueError when the rows are not evenly spaced (a slice of an inner leading dimension) or not contiguous.
Rows collapse_rows(const char* op, const char* argument, const ArrayView& view);

}  // namespace llada

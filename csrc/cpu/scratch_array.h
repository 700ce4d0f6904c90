// A contiguous array that lives as long as one call: what an op made of other ops passes between them.
#pragma once

#include "common/array_view.h"
#include "cpu/scratch.h"

namespace llada {

class ScratchArray {
 public:
  ScratchArray(DType dtype, std::initializer_list<std::int64_t> sizes)
      : view_(contiguous_view(nullptr, dtype, sizes)), memory_(view_.elements() * dtype_bytes(dtype)) {
    view_.data = memory_.data();
  }

  const ArrayView& view() const { return view_; }

 private:
  ArrayView view_;
  Scratch<char> memory_;
};

}  // namespace llada

// Numbers added to a few logits of each row, found while the vocabulary streams by.
#pragma once

#include <cstdint>
#include <vector>

#include "common/array_view.h"

namespace llada {

class SparseBias {
 public:
  struct Entry {
    std::int64_t token;
    float value;
  };

  // tokens int64 [R, S] below `vocabulary`, values fp32 [R, S]; undefined views are no bias. Throws ValueError.
  SparseBias(const ArrayView& tokens, const ArrayView& values, std::int64_t vocabulary);

  bool empty() const { return entries_.empty(); }

  // The row's first entry of at least this token; the last one has a token above all.
  const Entry* first_from(std::int64_t row, std::int64_t token) const;

  // Adds to logits [columns] of tokens first, first + 1, ... what stands at `next`, which moves on.
  static void add(const Entry*& next, float* logits, std::int64_t first, std::int64_t columns) {
    for (; next->token < first + columns; ++next) logits[next->token - first] += next->value;
  }

 private:
  std::int64_t stride_ = 0;
  std::vector<Entry> entries_;  // per row by token, those of a token as they came, then the end
};

}  // namespace llada

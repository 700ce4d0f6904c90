// Which tile a product takes: a pure function of its sizes. The choice changes which bytes meet in a multiprocessor,
// not the order in which an output is summed.
#pragma once

#include <cstdint>

namespace llada::cuda {

enum class ProductShape {
  kNarrow,  // few columns: a dense projection of a few rows, whose weight all multiprocessors then read
  kFewRows,
  kManyRows,
};

// What a kernel's tiles hold.
struct ProductTiles {
  int few_rows, few_columns;
  int many_rows, many_columns;
  int narrow_rows;  // 0: it has no narrow tile
};

struct ProductProblem {
  std::int64_t rows, columns, groups;
  int multiprocessors;
};

constexpr ProductShape select_product(const ProductProblem& problem, const ProductTiles& tiles) {
  const auto count = [&](std::int64_t rows, std::int64_t columns) {
    return (problem.rows + rows - 1) / rows * ((problem.columns + columns - 1) / columns);
  };
  const bool dense = problem.groups == 1;
  if (dense && problem.rows <= tiles.narrow_rows &&
      count(tiles.few_rows, tiles.few_columns) < problem.multiprocessors) {
    return ProductShape::kNarrow;
  }
  // Rows need more than one of the smaller tiles on average, and there is a larger one for each multiprocessor.
  const bool many = problem.rows > tiles.few_rows * problem.groups &&
                    count(tiles.many_rows, tiles.many_columns) >= problem.multiprocessors;
  return many ? ProductShape::kManyRows : ProductShape::kFewRows;
}

}  // namespace llada::cuda

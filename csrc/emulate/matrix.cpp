#include "emulate/matrix.h"

#include <bit>

#include "emulate/scheduler.h"
#include "emulate/warp.h"

namespace llada::emulate {
namespace {

constexpr int kLanes = 32;

struct LoadOperands {
  int matrices;
  bool transposed;
  std::uint16_t row[8];
  std::uint32_t* result;
};

void run_load(std::uint32_t, void* const* operands) {
  const auto lane = [&](int index) { return static_cast<LoadOperands*>(operands[index]); };
  for (int l = 0; l < kLanes; ++l) {
    const int row = l / 4, column = l % 4 * 2;
    for (int matrix = 0; matrix < lane(l)->matrices; ++matrix) {
      const auto element = [&](int r, int c) -> std::uint32_t { return lane(matrix * 8 + r)->row[c]; };
      lane(l)->result[matrix] = lane(l)->transposed ? element(column, row) | element(column + 1, row) << 16
                                                    : element(row, column) | element(row, column + 1) << 16;
    }
  }
}

struct StoreOperands {
  int matrices;
  bool transposed;
  const std::uint32_t* values;
  std::uint16_t row[8];
};

void run_store(std::uint32_t, void* const* operands) {
  const auto lane = [&](int index) { return static_cast<StoreOperands*>(operands[index]); };
  for (int l = 0; l < kLanes; ++l) {
    const int row = l / 4, column = l % 4 * 2;
    for (int matrix = 0; matrix < lane(l)->matrices; ++matrix) {
      for (int half = 0; half < 2; ++half) {
        const auto element = static_cast<std::uint16_t>(lane(l)->values[matrix] >> (16 * half));
        const bool transposed = lane(l)->transposed;
        lane(matrix * 8 + (transposed ? column + half : row))->row[transposed ? row : column + half] = element;
      }
    }
  }
}

struct MultiplyOperands {
  Float16 type;
  float* d;
  const std::uint32_t *a, *b;
};

// Lane l holds, with g = l / 4 and t = l % 4 * 2 (PTX ISA, "Matrix Fragments for mma.m16n8k16"):
//   a[i]  rows g + 8 (i & 1), columns t, t + 1 of the left (i < 2) or right half
//   b[i]  rows t, t + 1 of the upper (i = 0) or lower half, column g
//   d[i]  row g (i < 2) or g + 8, column t + (i & 1)
struct Tiles {
  float a[16][16], b[16][8], d[16][8];
};

void gather(Tiles& tiles, int lane, const MultiplyOperands& own) {
  const int g = lane / 4, t = lane % 4 * 2;
  for (int half = 0; half < 2; ++half) {
    const auto element = [&](std::uint32_t pair) {
      return widen(own.type, static_cast<std::uint16_t>(pair >> (16 * half)));
    };
    for (int i = 0; i < 4; ++i) tiles.a[g + i % 2 * 8][t + i / 2 * 8 + half] = element(own.a[i]);
    for (int i = 0; i < 2; ++i) tiles.b[t + i * 8 + half][g] = element(own.b[i]);
  }
  for (int i = 0; i < 4; ++i) tiles.d[g + i / 2 * 8][t + i % 2] = own.d[i];
}

void run_multiply(std::uint32_t, void* const* operands) {
  alignas(64) Tiles tiles;
  const auto lane = [&](int index) { return static_cast<MultiplyOperands*>(operands[index]); };
  for (int l = 0; l < kLanes; ++l) gather(tiles, l, *lane(l));
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      const float a = tiles.a[row][k];
      for (int column = 0; column < 8; ++column) tiles.d[row][column] += a * tiles.b[k][column];
    }
  }
  for (int l = 0; l < kLanes; ++l) {
    for (int i = 0; i < 4; ++i) lane(l)->d[i] = tiles.d[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
  }
}

}  // namespace

float widen(Float16 type, std::uint16_t bits) {
  return type == Float16::kBFloat16 ? std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16)
                                    : static_cast<float>(std::bit_cast<_Float16>(bits));
}

void load_matrix(int matrices, bool transposed, const uint4& row, std::uint32_t* result, const Where& where) {
  LoadOperands operands{matrices, transposed, {}, result};
  __builtin_memcpy(operands.row, &row, sizeof row);
  warp_meet(kFullWarp, &run_load, &operands, where);
}

uint4 store_matrix(int matrices, bool transposed, const std::uint32_t* values, const Where& where) {
  StoreOperands operands{matrices, transposed, values, {}};
  warp_meet(kFullWarp, &run_store, &operands, where);
  uint4 row;
  __builtin_memcpy(&row, operands.row, sizeof row);
  return row;
}

void check_row(const void* row, const Where& where) {
  if (reinterpret_cast<std::uintptr_t>(row) % sizeof(uint4) == 0) return;
  fail("%s, line %u: the row is not aligned to 16 bytes", where.operation, static_cast<unsigned>(where.place.line()));
}

void multiply_m16n8k16(Float16 type, float* d, const std::uint32_t* a, const std::uint32_t* b, const Where& where) {
  MultiplyOperands operands{type, d, a, b};
  warp_meet(kFullWarp, &run_multiply, &operands, where);
}

}  // namespace llada::emulate

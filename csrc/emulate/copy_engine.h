// Bulk and tile copies (TMA), and arrivals at an mbarrier that follow a thread's cp.async: work that happens beside all
// threads. It is done between two of their steps: at once, at a moment drawn from the seed, or when no thread can go
// on.
#pragma once

#include <cstdint>

#include "emulate/where.h"

namespace llada::emulate {

inline constexpr int kTileRowBytes = 128;

// What stands for a CUtensorMap: rows of `columns` elements, and planes of rows. A tile is box_rows x 128 bytes.
struct alignas(64) TensorMap {
  const void* base;
  int element_bytes, rank;
  std::int64_t columns, rows, planes;
  std::int64_t row_bytes, plane_bytes;
  int box_rows;
};

struct TileCoordinates {
  int column, row, plane;
};

void issue_tile_copy(void* shared, const TensorMap& map, int rank, const TileCoordinates& at, std::uint64_t* barrier,
                     const Where& where);
void issue_bulk_copy(void* shared, const void* global, unsigned bytes, std::uint64_t* barrier, const Where& where);

// One arrival when the thread's cp.async so far have happened.
void issue_arrival_after_copies(std::uint64_t* barrier, const Where& where);

// --- for the scheduler
void reset_copy_engine();
bool copy_engine_due(bool nothing_else);
void run_copy_engine();

// --- memory_access.cpp: the accesses themselves, under the sanitizers
struct AsyncCopy;
void copy_tile(const TensorMap& map, const TileCoordinates& at, char* shared, const char* shared_base);
void copy_bulk(const AsyncCopy& copy);
void copy_small(const AsyncCopy& copy);

}  // namespace llada::emulate

#include "emulate/memory_access.h"

#include "emulate/copy_engine.h"
#include "emulate/wgmma.h"

namespace llada::emulate {

void copy_small(const AsyncCopy& copy) { move_bytes(copy); }

void copy_bulk(const AsyncCopy& copy) {
  auto* to = static_cast<uint4*>(copy.to);
  const auto* from = static_cast<const uint4*>(copy.from);
  for (unsigned i = 0; i < copy.bytes / sizeof(uint4); ++i) to[i] = from[i];
}

// Elements outside the tensor become zero. Chunks of 16 bytes are exchanged within each 1024: bits 4-6 of the address
// in shared memory are combined with its bits 7-9.
void copy_tile(const TensorMap& map, const TileCoordinates& at, char* shared, const char* shared_base) {
  constexpr int kChunk = 16;
  const int chunk_elements = kChunk / map.element_bytes;
  for (int row = 0; row < map.box_rows; ++row) {
    for (int chunk = 0; chunk < kTileRowBytes / kChunk; ++chunk) {
      std::uintptr_t offset = static_cast<std::uintptr_t>(shared - shared_base) + row * kTileRowBytes + chunk * kChunk;
      offset ^= (offset >> 7 & 7) << 4;
      const std::int64_t y = std::int64_t{at.row} + row, x = std::int64_t{at.column} + chunk * chunk_elements;
      const bool inside = y >= 0 && y < map.rows && x >= 0 && x < map.columns && at.plane >= 0 && at.plane < map.planes;
      const std::int64_t elements = !inside ? 0 : map.columns - x < chunk_elements ? map.columns - x : chunk_elements;
      const char* source = static_cast<const char*>(map.base);
      if (inside) source += at.plane * map.plane_bytes + y * map.row_bytes + x * map.element_bytes;
      move_bytes({const_cast<char*>(shared_base) + offset, source, kChunk,
                  static_cast<unsigned>(elements * map.element_bytes)});
    }
  }
}

void read_chunk(const void* shared, std::uint16_t (&elements)[8]) {
  const uint4 chunk = *static_cast<const uint4*>(shared);
  __builtin_memcpy(elements, &chunk, sizeof chunk);
}

}  // namespace llada::emulate

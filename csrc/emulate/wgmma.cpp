#include "emulate/wgmma.h"

#include <algorithm>

#include "emulate/sanitizer.h"
#include "emulate/scheduler.h"
#include "emulate/warp.h"

namespace llada::emulate {

namespace {
constexpr unsigned kMaxInFlight = 128;
constexpr int kRows = 16, kDepth = 16, kMaxColumns = 256;
constexpr unsigned kWarpsPerGroup = 4;
}  // namespace

struct WgmmaQueue {
  struct Entry {
    Wgmma operation;
    unsigned group;
    Where where;
    float* d[kWarpSize];
    const std::uint32_t* a_registers[kWarpSize];
  };
  Entry entries[kMaxInFlight];  // a ring, oldest first
  unsigned head = 0, count = 0, group = 0;
  char order = 0;  // a name for release and acquire
};

namespace {

// Address of the 16 bytes that begin at element (row, 8 * chunk) of a K-major operand, or (8 * chunk, k) of an MN-major
// one (PTX ISA, "Shared Memory Matrix Layout", 128-byte swizzle; units of 16 bytes):
//   K-major    (8, n) x 2       strides (8, stride) x 1         row, chunk of k
//   MN-major   (8, n) x (8, 2)  strides (1, leading) x (8, stride)   chunk of mn, k
struct Descriptor {
  std::uint64_t bits;

  std::uint32_t start() const { return static_cast<std::uint32_t>(bits & 0x3fff) << 4; }
  std::uint32_t leading() const { return static_cast<std::uint32_t>(bits >> 16 & 0x3fff) << 4; }
  std::uint32_t stride() const { return static_cast<std::uint32_t>(bits >> 32 & 0x3fff) << 4; }

  std::uint32_t k_major(int row, int chunk) const { return start() + row / 8 * stride() + row % 8 * 128 + chunk * 16; }
  std::uint32_t mn_major(int chunk, int k) const {
    return start() + chunk / 8 * leading() + chunk % 8 * 16 + k / 8 * stride() + k % 8 * 128;
  }
};

void read(std::uint32_t address, std::uint16_t (&elements)[8], const Where& where) {
  address ^= (address >> 7 & 7) << 4;
  const Block& block = *current->block;
  if (address + sizeof elements > block.shared_bytes) {
    fail("%s, line %u: the descriptor reaches outside shared memory", where.operation,
         static_cast<unsigned>(where.place.line()));
  }
  read_chunk(block.shared + address, elements);
}

// tile[k][mn]: mn_count elements from first_mn on.
template <int kStride>
void read_tile(float (&tile)[kDepth][kStride], Float16 type, std::uint64_t bits, bool transposed, int first_mn,
               int mn_count, const Where& where) {
  const Descriptor descriptor{bits};
  std::uint16_t elements[8];
  if (transposed) {
    for (int k = 0; k < kDepth; ++k) {
      for (int chunk = 0; chunk < mn_count / 8; ++chunk) {
        read(descriptor.mn_major(first_mn / 8 + chunk, k), elements, where);
        for (int i = 0; i < 8; ++i) tile[k][chunk * 8 + i] = widen(type, elements[i]);
      }
    }
    return;
  }
  for (int mn = 0; mn < mn_count; ++mn) {
    for (int chunk = 0; chunk < kDepth / 8; ++chunk) {
      read(descriptor.k_major(first_mn + mn, chunk), elements, where);
      for (int i = 0; i < 8; ++i) tile[chunk * 8 + i][mn] = widen(type, elements[i]);
    }
  }
}

// Registers hold a's fragment as in mma.m16n8k16.
void read_registers(float (&a)[kDepth][kRows], const WgmmaQueue::Entry& entry) {
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t pair = entry.a_registers[lane][i];
      const int row = static_cast<int>(lane) / 4 + i % 2 * 8, k = static_cast<int>(lane) % 4 * 2 + i / 2 * 8;
      a[k][row] = widen(entry.operation.type, static_cast<std::uint16_t>(pair));
      a[k + 1][row] = widen(entry.operation.type, static_cast<std::uint16_t>(pair >> 16));
    }
  }
}

void multiply(const WgmmaQueue::Entry& entry) {
  static float a[kDepth][kRows], b[kDepth][kMaxColumns], d[kRows][kMaxColumns];
  const Wgmma& operation = entry.operation;
  const int columns = operation.columns;
  if (operation.a_registers != nullptr) {
    read_registers(a, entry);
  } else {
    const int first_row = static_cast<int>(current->warp % kWarpsPerGroup) * kRows;
    read_tile(a, operation.type, operation.a, operation.a_transposed, first_row, kRows, entry.where);
  }
  read_tile(b, operation.type, operation.b, operation.b_transposed, 0, columns, entry.where);
  for (int row = 0; row < kRows; ++row) {
    std::fill_n(d[row], columns, 0.0f);
    for (int k = 0; k < kDepth; ++k) {
      for (int column = 0; column < columns; ++column) d[row][column] += a[k][row] * b[k][column];
    }
  }
  // Of each 8 columns, lane l holds rows l / 4 and l / 4 + 8, columns l % 4 * 2 and the next.
  for (int lane = 0; lane < static_cast<int>(kWarpSize); ++lane) {
    for (int i = 0; i < columns / 2; ++i) {
      float& own = entry.d[lane][i];
      const float product = d[lane / 4 + i / 2 % 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2];
      own = operation.accumulate ? own + product : product;
    }
  }
}

// The first `count` operations, in order.
void perform(WgmmaQueue& queue, unsigned count) {
  for (; count != 0; --count, --queue.count) multiply(queue.entries[queue.head++ % kMaxInFlight]);
  release(&queue.order);
}

WgmmaQueue& own_queue() {
  Warp& warp = current->block->warps[current->warp];
  if (!warp.wgmma) warp.wgmma = {new WgmmaQueue, [](WgmmaQueue* queue) { delete queue; }};
  return *warp.wgmma;
}

struct Issue {
  const Wgmma* operation;
  const Where* where;
};

void run_issue(std::uint32_t, void* const* operands) {
  const auto lane = [&](unsigned index) -> const Issue& { return *static_cast<const Issue*>(operands[index]); };
  const Wgmma& first = *lane(0).operation;
  const Where& where = *lane(0).where;
  WgmmaQueue& queue = own_queue();
  if (queue.count == kMaxInFlight) fail("%s: more than %u in flight", where.operation, kMaxInFlight);
  constexpr std::uint64_t kSwizzle128 = 1;
  const bool a_supported = first.a_registers != nullptr || first.a >> 62 == kSwizzle128;
  if (!a_supported || first.b >> 62 != kSwizzle128) fail("%s: only the 128-byte swizzle is emulated", where.operation);

  WgmmaQueue::Entry& entry = queue.entries[(queue.head + queue.count++) % kMaxInFlight];
  entry.operation = first;
  entry.group = queue.group;
  entry.where = where;
  for (unsigned i = 0; i < kWarpSize; ++i) {
    const Wgmma& own = *lane(i).operation;
    if (own.a != first.a || own.b != first.b || own.accumulate != first.accumulate) {
      fail("%s, line %u: lanes %u and 0 disagree on the operands", where.operation,
           static_cast<unsigned>(where.place.line()), i);
    }
    entry.d[i] = own.d;
    entry.a_registers[i] = own.a_registers;
  }
  if (coin()) perform(queue, queue.count);
}

void run_commit(std::uint32_t, void* const*) { ++own_queue().group; }

void run_wait(std::uint32_t, void* const* operands) {
  WgmmaQueue& queue = own_queue();
  const unsigned groups = *static_cast<const unsigned*>(operands[0]);
  const auto group_of = [&](unsigned i) { return queue.entries[(queue.head + i) % kMaxInFlight].group; };
  unsigned due = 0;
  while (due < queue.count && group_of(due) + groups < queue.group) ++due;
  perform(queue, due);
}

}  // namespace

void wgmma_issue(const Wgmma& operation, const Where& where) {
  const unsigned first_warp = current->warp / kWarpsPerGroup * kWarpsPerGroup;
  if ((first_warp + kWarpsPerGroup) * kWarpSize > current->block->threads.size()) {
    fail("%s, line %u: not a full warpgroup of 128 threads", where.operation,
         static_cast<unsigned>(where.place.line()));
  }
  Issue issue{&operation, &where};
  warp_meet(kFullWarp, &run_issue, &issue, where);
}

void wgmma_commit(const Where& where) { warp_meet(kFullWarp, &run_commit, nullptr, where); }

void wgmma_wait(unsigned groups, const Where& where) {
  warp_meet(kFullWarp, &run_wait, &groups, where);
  acquire(&own_queue().order);  // one lane made the accesses of all
}

bool wgmma_in_flight() {
  const Warp& warp = current->block->warps[current->warp];
  return warp.wgmma && warp.wgmma->count != 0;
}

}  // namespace llada::emulate

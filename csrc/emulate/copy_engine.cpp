#include "emulate/copy_engine.h"

#include "emulate/mbarrier.h"
#include "emulate/sanitizer.h"
#include "emulate/scheduler.h"

namespace llada::emulate {
namespace {

constexpr unsigned kMaxJobs = 4096;
constexpr std::uintptr_t kSwizzlePeriod = 1024;

struct Job {
  enum class Kind { kTile, kBulk, kArrivalAfterCopies } kind;
  Thread* thread;  // that issued it
  std::uint64_t* barrier;
  Where where;
  void* shared;
  const void* source;
  TensorMap map;  // a copy: the thread that issued it may have gone
  TileCoordinates at;
  unsigned bytes, issued;
  const char* order;  // a name for release and acquire
};

// Of all resident blocks: a ring, oldest first.
Job jobs[kMaxJobs];
unsigned head = 0, count = 0;
std::uint64_t skipped = 0;
char orders[kMaxJobs];
unsigned next_order = 0;

Actor engine;

// Seed 0 and every fourth seed: as late as possible.
bool late() { return settings().seed % 4 == 0; }

void issue(Job job) {
  if (count == kMaxJobs) fail("%s: more than %u copies in flight", job.where.operation, kMaxJobs);
  job.thread = current;
  job.order = &orders[next_order++ % kMaxJobs];
  release(job.order);
  ++current->block->copies_in_flight;
  jobs[(head + count++) % kMaxJobs] = job;
  if (!late() && coin()) run_copy_engine();
}

bool inside_shared(const Block& block, const void* shared, std::size_t bytes) {
  const auto* first = static_cast<const char*>(shared);
  return first >= block.shared && first + bytes <= block.shared + block.shared_bytes;
}

// Everything the job moves, as the engine's own accesses. Returns the bytes that count at its mbarrier.
std::int64_t move(const Job& job) {
  Block& block = *job.thread->block;
  switch (job.kind) {
    case Job::Kind::kTile:
      copy_tile(job.map, job.at, static_cast<char*>(job.shared), block.shared);
      return std::int64_t{job.map.box_rows} * kTileRowBytes;
    case Job::Kind::kBulk:
      copy_bulk({job.shared, job.source, job.bytes, job.bytes});
      return job.bytes;
    case Job::Kind::kArrivalAfterCopies: {
      AsyncCopy copy;
      while (take_copy_before(job.thread->copies, job.issued, copy)) copy_small(copy);
      release(&job.thread->copies.order);
      return 0;
    }
  }
  return 0;
}

void run(const Job& job) {
  const char* error = engine.act(current->fibre.tsan_fiber, [&] {
    acquire(job.order);
    const std::int64_t bytes = move(job);
    const unsigned arrivals = job.kind == Job::Kind::kArrivalAfterCopies ? 1 : 0;
    const char* result = mbarrier_update(job.barrier, arrivals, -bytes, *job.thread);
    release(&job.thread->block->order);
    return result;
  });
  --job.thread->block->copies_in_flight;
  if (error != nullptr) {
    report(*job.thread, "%s, line %u: %s", job.where.operation, static_cast<unsigned>(job.where.place.line()), error);
  }
}

}  // namespace

void issue_tile_copy(void* shared, const TensorMap& map, int rank, const TileCoordinates& at, std::uint64_t* barrier,
                     const Where& where) {
  if (map.rank != rank) fail("%s: the map has %d dimensions, the copy %d", where.operation, map.rank, rank);
  const Block& block = *current->block;
  if (!inside_shared(block, shared, std::size_t{kTileRowBytes} * map.box_rows)) {
    fail("%s, line %u: the tile exceeds dynamic shared memory", where.operation,
         static_cast<unsigned>(where.place.line()));
  }
  constexpr int kChunkBytes = 16;
  if (at.column * map.element_bytes % kChunkBytes != 0) {
    fail("%s, line %u: the emulated tile begins at a multiple of 16 bytes, got column %d", where.operation,
         static_cast<unsigned>(where.place.line()), at.column);
  }
  if (reinterpret_cast<std::uintptr_t>(shared) % kSwizzlePeriod != 0) {
    fail("%s, line %u: a tile with 128-byte swizzle is aligned to 1024 bytes", where.operation,
         static_cast<unsigned>(where.place.line()));
  }
  issue({Job::Kind::kTile, nullptr, barrier, where, shared, nullptr, map, at, 0, 0, nullptr});
}

void issue_bulk_copy(void* shared, const void* global, unsigned bytes, std::uint64_t* barrier, const Where& where) {
  constexpr unsigned kAlignment = 16;
  const auto addresses = reinterpret_cast<std::uintptr_t>(shared) | reinterpret_cast<std::uintptr_t>(global);
  if (addresses % kAlignment != 0 || bytes % kAlignment != 0 || bytes == 0) {
    fail("%s, line %u: addresses and size are multiples of 16 bytes", where.operation,
         static_cast<unsigned>(where.place.line()));
  }
  issue({Job::Kind::kBulk, nullptr, barrier, where, shared, global, {}, {}, bytes, 0, nullptr});
}

void issue_arrival_after_copies(std::uint64_t* barrier, const Where& where) {
  PendingCopies& copies = current->copies;
  copies.handed_over = copies.issued;
  issue({Job::Kind::kArrivalAfterCopies, nullptr, barrier, where, nullptr, nullptr, {}, {}, 0, copies.issued, nullptr});
}

void reset_copy_engine() {
  head = count = 0;
  skipped = 0;
}

bool copy_engine_due(bool nothing_else) {
  if (count == 0) return false;
  // Threads that poll never leave nothing else to do.
  constexpr std::uint64_t kPatience = 256;
  if (nothing_else || ++skipped % kPatience == 0) return true;
  return !late() && draw() % 8 == 0;
}

void run_copy_engine() {
  const auto picked = static_cast<unsigned>(settings().seed == 0 ? 0 : draw() % count);
  Job& oldest = jobs[head++ % kMaxJobs];
  Job& taken = jobs[(head - 1 + picked) % kMaxJobs];
  const Job job = taken;
  taken = oldest;
  --count;
  run(job);
}

}  // namespace llada::emulate

#include "emulate/scheduler.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "emulate/copy_engine.h"
#include "emulate/sanitizer.h"
#include "emulate/wgmma.h"

namespace llada::emulate {

Thread* current = nullptr;

namespace {

constexpr int kErrorInvalidConfiguration = 9;  // cudaErrorInvalidConfiguration
constexpr int kErrorLaunchFailure = 719;       // cudaErrorLaunchFailure
constexpr unsigned kMaxThreads = kMaxWarps * kWarpSize;
constexpr std::size_t kMaxSharedBytes = 227 << 10;
constexpr std::size_t kSharedAlignment = 1024;
constexpr std::size_t kMaxStaticArrays = 32;
constexpr unsigned kMaxGridYZ = 65535;
constexpr std::uint64_t kYieldLimit = 20'000'000;

Settings chosen;
std::set<const void*> identities;
std::uint64_t launch_count = 0;
std::string message;
bool failed = false;
std::uint64_t random_state = 1;
std::uint64_t yields = 0;  // since the last event that was not one

Thread host;                                             // the thread that called launch
auto& pool = *new std::vector<std::unique_ptr<Thread>>;  // never freed: no order with its last users

// Each thread is in the ready queue at most once: a ring of that size never grows, so fibres allocate nothing.
struct ReadyQueue {
  std::vector<Thread*> ring;
  std::size_t mask = 0, head = 0, tail = 0;

  void reset(std::size_t threads) {
    std::size_t size = 1;
    while (size < threads) size *= 2;
    ring.assign(size, nullptr);
    mask = size - 1;
    head = tail = 0;
  }
  void push(Thread* thread) { ring[tail++ & mask] = thread; }
  Thread* pop_oldest() { return ring[head++ & mask]; }
  Thread* pop_newest() { return ring[--tail & mask]; }
  Thread* pop_any() {
    Thread*& picked = ring[(head + draw() % (tail - head)) & mask];
    Thread* thread = picked;
    picked = ring[--tail & mask];
    return thread;
  }
};
ReadyQueue ready;

// Odd seeds: any ready thread. Even seeds: mostly the one made ready last, which lets single threads run far ahead.
Thread* pick() {
  while (!failed && copy_engine_due(ready.head == ready.tail)) run_copy_engine();
  if (failed || ready.head == ready.tail) return nullptr;
  if (chosen.seed == 0) return ready.pop_oldest();
  if (chosen.seed % 2 == 0 && draw() % 16 != 0) return ready.pop_newest();
  return ready.pop_any();
}

void switch_to(Thread* next, bool for_good = false) {
  Thread* previous = current;
  if (next == nullptr) next = &host;
  current = next;
  switch_fibre(previous->fibre, next->fibre, for_good);
}

struct Grid {
  dim3 grid, block;
  std::size_t shared_bytes;
  void (*kernel)(void*);
  void* arguments;
  std::uint64_t next_block, block_count;
};
Grid running;

void check_nothing_in_flight() {
  const PendingCopies& copies = current->copies;
  if (copies.count != 0 && copies.handed_over != copies.issued) {
    fail("a thread exits with cp.async in flight that nobody waited for");
  }
  if (wgmma_in_flight()) fail("a thread exits with wgmma in flight that nobody waited for");
  if (current->block->live == 1 && current->block->copies_in_flight != 0) {
    fail("a block exits with bulk copies in flight that nobody waited for");
  }
}

void thread_main() {
  fibre_entered();
  Block& block = *current->block;
  acquire(&running);
  acquire(&block.order);  // after the earlier block of this slot, whose stacks and shared memory it takes over
  running.kernel(running.arguments);
  check_nothing_in_flight();
  release(&block.order);
  current->exited = true;
  current->where = {"exited", {}};
  yields = 0;
  ++block.exited;
  block.finished = --block.live == 0;
  switch_to(block.finished ? nullptr : pick(), true);
  std::abort();
}

// Of exactly that size, so that ASan sees its end.
SharedMemory allocate(std::size_t alignment, std::size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, bytes) != 0) std::abort();
  return {static_cast<char*>(memory), &std::free};
}

// By hand: TSan would see a write of memset's as the kernel's own.
void poison(char* memory, std::size_t bytes) {
  asm volatile("rep stosb" : "+D"(memory), "+c"(bytes) : "a"(0xff) : "memory");
}

void start_next_block(Block& block, unsigned slot) {
  block.finished = false;
  if (running.next_block == running.block_count) return;
  const std::uint64_t number = running.next_block++;
  const dim3 grid = running.grid, size = running.block;
  block.index = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                 static_cast<unsigned>(number / grid.x / grid.y)};
  poison(block.shared, block.shared_bytes);
  for (StaticArray& array : block.static_arrays) poison(array.memory.get(), array.bytes);
  for (Warp& warp : block.warps) warp.open = 0;
  for (Barrier& barrier : block.barriers) barrier = Barrier();
  block.waiting_for_mbarrier = nullptr;
  const unsigned threads = size.x * size.y * size.z;
  block.live = threads;
  block.exited = 0;
  for (unsigned i = 0; i < threads; ++i) {
    Thread* thread = pool[std::size_t{slot} * threads + i].get();
    block.threads[i] = thread;
    thread->block = &block;
    thread->linear = i;
    thread->lane = i % kWarpSize;
    thread->warp = i / kWarpSize;
    thread->index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    thread->exited = false;
    thread->where = Where();
    thread->copies.reset();
    prepare_fibre(thread->fibre, &thread_main);
    make_ready(thread);
  }
}

void append_place(std::string& text, const Thread& thread) {
  char line[256];
  const char* file = thread.where.place.file_name();
  const char* slash = std::strrchr(file, '/');
  const uint3& block = thread.block->index;
  std::snprintf(line, sizeof line, "\n  block (%u,%u,%u) thread %u waits at %s, %s:%u", block.x, block.y, block.z,
                thread.linear, thread.where.operation, slash != nullptr ? slash + 1 : file,
                static_cast<unsigned>(thread.where.place.line()));
  text += line;
}

void report_deadlock(const std::vector<Block>& blocks) {
  constexpr int kShown = 12;
  int waiting = 0;
  message = "deadlock: no thread can go on";
  for (const Block& block : blocks) {
    for (const Thread* thread : block.threads) {
      if (!thread->exited && block.live != 0 && waiting++ < kShown) append_place(message, *thread);
    }
  }
  if (waiting > kShown) message += "\n  and " + std::to_string(waiting - kShown) + " more";
  failed = true;
}

void run(std::vector<Block>& blocks) {
  for (unsigned i = 0; i < blocks.size(); ++i) start_next_block(blocks[i], i);
  while (!failed) {
    bool live = false;
    for (unsigned i = 0; i < blocks.size(); ++i) {
      if (blocks[i].finished) start_next_block(blocks[i], i);
      live = live || blocks[i].live != 0;
    }
    Thread* next = pick();
    if (next != nullptr) {
      switch_to(next);
    } else if (live) {
      report_deadlock(blocks);
    } else {
      break;
    }
  }
}

void record(const Thread& thread, const char* format, va_list arguments) {
  if (failed) return;
  char text[512], place[160];
  std::vsnprintf(text, sizeof text, format, arguments);
  const uint3 &block = thread.block->index, &index = thread.index;
  std::snprintf(place, sizeof place, " [block (%u,%u,%u) thread (%u,%u,%u)]", block.x, block.y, block.z, index.x,
                index.y, index.z);
  message = std::string(text) + place;
  failed = true;
  release(&message);
}

// Fibres that stopped half-way cannot be used again.
void abandon([[maybe_unused]] std::vector<Block>&& blocks) {
  for (auto& thread : pool) discard_fibre(thread->fibre);
#ifdef LLADA_EMULATE_TSAN
  // They released nothing: to TSan, freeing what they used would be a race.
  new std::vector<Block>(std::move(blocks));
#endif
}

bool valid(const Grid& launch) {
  const dim3 &g = launch.grid, &b = launch.block;
  const std::uint64_t threads = std::uint64_t{b.x} * b.y * b.z;
  return threads > 0 && threads <= kMaxThreads && b.z <= 64 && launch.block_count > 0 && g.x <= 0x7fffffffu &&
         g.y <= kMaxGridYZ && g.z <= kMaxGridYZ && launch.shared_bytes <= kMaxSharedBytes;
}

}  // namespace

void* static_array(const void* key, std::size_t bytes) {
  constexpr std::size_t kAlignment = 128;
  auto& arrays = current->block->static_arrays;
  for (const StaticArray& array : arrays) {
    if (array.key != key) continue;
    acquire(array.memory.get());  // its allocation is a write to TSan
    return array.memory.get();
  }
  if (arrays.size() == kMaxStaticArrays) fail("more than %zu arrays in shared memory", kMaxStaticArrays);
  arrays.push_back({key, bytes, allocate(kAlignment, bytes)});
  char* memory = arrays.back().memory.get();
  poison(memory, bytes);
  release(memory);
  return memory;
}

Settings& settings() { return chosen; }
const char* last_error() { return message.c_str(); }

void thread_fence() {
  static const char order = 0;
  acquire(&order);
  release(&order);
}

std::uint64_t draw() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state >> 11;
}

bool coin() { return chosen.seed != 0 && (draw() & 1) != 0; }

void make_ready(Thread* thread) { ready.push(thread); }

void make_ready_all(Thread*& list) {
  for (Thread *thread = list, *next; thread != nullptr; thread = next) {
    next = thread->next_waiting;
    make_ready(thread);
  }
  list = nullptr;
}

void wait_here(const Where& where) {
  yields = 0;
  Thread* self = current;
  self->where = where;
  Thread* next = pick();
  if (next != self) switch_to(next);
}

void yield(const Where& where) {
  if (++yields > kYieldLimit) {
    fail("%s, line %u: every thread only yields to another", where.operation,
         static_cast<unsigned>(where.place.line()));
  }
  Thread* self = current;
  self->where = where;
  make_ready(self);
  Thread* next = pick();
  if (next != self) switch_to(next);
}

void report(const Thread& thread, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  record(thread, format, arguments);
  va_end(arguments);
}

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  record(*current, format, arguments);
  va_end(arguments);
  switch_to(&host, true);
  std::abort();
}

std::vector<const void*> kernels_run() { return {identities.begin(), identities.end()}; }

std::uint64_t launches() { return launch_count; }

int launch(dim3 grid, dim3 block, std::size_t shared_bytes, void (*kernel)(void*), void* arguments,
           const void* identity) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  identities.insert(identity);
  ++launch_count;
  running = {grid, block, shared_bytes, kernel, arguments, 0, std::uint64_t{grid.x} * grid.y * grid.z};
  message.clear();
  failed = false;
  yields = 0;
  random_state = chosen.seed * 0x9e3779b97f4a7c15ull + 88172645463325252ull;
  if (!valid(running)) {
    message = "invalid launch configuration";
    return kErrorInvalidConfiguration;
  }
  const unsigned threads = block.x * block.y * block.z;
  const auto slots =
      static_cast<unsigned>(std::min<std::uint64_t>(running.block_count, std::max(1u, chosen.resident_blocks)));
  while (pool.size() < std::size_t{slots} * threads) pool.push_back(std::make_unique<Thread>());
  ready.reset(pool.size() + 1);
  adopt_thread(host.fibre);
  current = &host;
  reset_copy_engine();

  std::vector<Block> blocks(slots);
  for (Block& slot : blocks) {
    slot.size = block;
    slot.grid = grid;
    slot.shared_bytes = shared_bytes;
    if (shared_bytes != 0) {
      slot.shared_memory = allocate(kSharedAlignment, shared_bytes);
      slot.shared = slot.shared_memory.get();
    }
    slot.static_arrays.reserve(kMaxStaticArrays);
    slot.threads.resize(threads);
    slot.warps.resize((threads + kWarpSize - 1) / kWarpSize);
  }
  release(&running);
  run(blocks);
  for (Block& slot : blocks) acquire(&slot.order);
  if (failed) {
    acquire(&message);
    abandon(std::move(blocks));
  }
  current = nullptr;
  return failed ? kErrorLaunchFailure : 0;
}

}  // namespace llada::emulate

#include "emulate/mbarrier.h"

#include <cstring>

#include "emulate/sanitizer.h"
#include "emulate/scheduler.h"

namespace llada::emulate {
namespace {

constexpr unsigned kMaxBytes = (1u << 20) - 1;
constexpr unsigned kMark = 0x5a;  // neither poison nor zero

// What an emulated barrier keeps in its own 8 bytes. The marks tell one that was never initialised or overwritten.
struct State {
  std::uint64_t phase : 1, arrivals : 11, pending : 11, mark : 8;
  std::int64_t bytes : 33;  // expected and not yet come
};
static_assert(sizeof(State) == sizeof(std::uint64_t));
constexpr unsigned kMaxStored = (1u << 11) - 1;  // a block has 1024 threads; TMA barriers add few arrivals

State load(const std::uint64_t* barrier) {
  State state;
  std::memcpy(&state, barrier, sizeof state);
  return state;
}

void store(std::uint64_t* barrier, const State& state) {
  std::uint64_t bits;
  std::memcpy(&bits, &state, sizeof bits);
  *static_cast<volatile std::uint64_t*>(barrier) = bits;
}

bool initialised(const std::uint64_t* barrier) {
  return reinterpret_cast<std::uintptr_t>(barrier) % sizeof(std::uint64_t) == 0 && load(barrier).mark == kMark;
}

const void* order_of(const std::uint64_t* barrier, unsigned phase) {
  return reinterpret_cast<const char*>(barrier) + phase;
}

void wake_waiting(Block& block, const std::uint64_t* barrier) {
  Thread* others = nullptr;
  for (Thread *thread = block.waiting_for_mbarrier, *next; thread != nullptr; thread = next) {
    next = thread->next_waiting;
    if (thread->mbarrier == barrier) {
      make_ready(thread);
    } else {
      thread->next_waiting = others;
      others = thread;
    }
  }
  block.waiting_for_mbarrier = others;
}

void check(const std::uint64_t* barrier, const Where& where) {
  if (initialised(barrier)) return;
  fail("%s, line %u: the mbarrier was not initialised, or was overwritten", where.operation,
       static_cast<unsigned>(where.place.line()));
}

}  // namespace

void mbarrier_init(std::uint64_t* barrier, unsigned arrivals, const Where& where) {
  if (arrivals == 0 || arrivals > kMaxStored) {
    fail("%s: %u arrivals, expected 1 to %u", where.operation, arrivals, kMaxStored);
  }
  store(barrier, {0, arrivals, arrivals, kMark, 0});
}

const char* mbarrier_update(std::uint64_t* barrier, unsigned arrivals, std::int64_t bytes, Thread& thread) {
  if (!initialised(barrier)) return "the mbarrier was not initialised, or was overwritten";
  State state = load(barrier);
  if (arrivals > state.pending) return "more arrivals at the mbarrier than it was initialised with";
  state.pending -= arrivals;
  state.bytes += bytes;
  if (state.bytes > static_cast<std::int64_t>(kMaxBytes) || state.bytes < -static_cast<std::int64_t>(kMaxBytes)) {
    return "the mbarrier's count of bytes is out of range";
  }
  release(order_of(barrier, state.phase));
  const bool complete = state.pending == 0 && state.bytes == 0;
  if (complete) {
    state.phase ^= 1;
    state.pending = state.arrivals;
  }
  store(barrier, state);
  if (complete) wake_waiting(*thread.block, barrier);
  return nullptr;
}

void mbarrier_arrive(std::uint64_t* barrier, unsigned expected_bytes, const Where& where) {
  check(barrier, where);
  if (expected_bytes != 0) mbarrier_expect(barrier, expected_bytes, where);
  const char* error = mbarrier_update(barrier, 1, 0, *current);
  if (error != nullptr) fail("%s, line %u: %s", where.operation, static_cast<unsigned>(where.place.line()), error);
}

// Before the arrival that it goes with: it must not end a phase.
void mbarrier_expect(std::uint64_t* barrier, unsigned bytes, const Where& where) {
  check(barrier, where);
  State state = load(barrier);
  state.bytes += bytes;
  store(barrier, state);
}

bool mbarrier_test(std::uint64_t* barrier, unsigned parity, const Where& where) {
  check(barrier, where);
  if (load(barrier).phase == (parity & 1)) return false;
  acquire(order_of(barrier, parity & 1));
  return true;
}

void mbarrier_wait(std::uint64_t* barrier, unsigned parity, const Where& where) {
  while (!mbarrier_test(barrier, parity, where)) {
    Block& block = *current->block;
    current->mbarrier = barrier;
    current->next_waiting = block.waiting_for_mbarrier;
    block.waiting_for_mbarrier = current;
    wait_here(where);
  }
}

}  // namespace llada::emulate

// One parallel loop for every kernel. The loop runs on whatever pool the door installed: torch's own through
// the torch door (so that one pool serves both), else a small pool of the core's.
//
// A kernel must give the same bits however [begin, end) is cut: work items are independent, and no item's
// arithmetic depends on the cut.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <type_traits>

namespace llada {

// A non-owning reference to a callable void(int64 begin, int64 end).
class RangeBody {
 public:
  template <class F, class = std::enable_if_t<!std::is_same_v<std::decay_t<F>, RangeBody>>>
  RangeBody(F&& body)  // NOLINT: implicit on purpose, it is a parameter type
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(body)))),
        call_([](void* object, std::int64_t begin, std::int64_t end) {
          (*static_cast<std::remove_reference_t<F>*>(object))(begin, end);
        }) {}

  void operator()(std::int64_t begin, std::int64_t end) const { call_(object_, begin, end); }

 private:
  void* object_;
  void (*call_)(void*, std::int64_t, std::int64_t);
};

// Runs body over disjoint ranges that cover [begin, end); a range holds at least `grain` items when it can.
void parallel_for(std::int64_t begin, std::int64_t end, std::int64_t grain, RangeBody body);

// The grain for items of so many elementary operations (an element loaded, worked on and stored; or about 16
// multiply-adds of a product): less work than this is not worth waking a thread for.
inline std::int64_t grain_of(std::int64_t item_operations) {
  constexpr std::int64_t kThreadOperations = 1 << 15;
  return kThreadOperations / (item_operations > 0 ? item_operations : 1) + 1;
}

inline constexpr std::int64_t kProductsPerOperation = 16;

// One step of parallel_phases: `items` independent items, taken by whichever thread is free, `grain` at a time.
struct Phase {
  std::int64_t items;
  std::int64_t grain;
  RangeBody body;
};

// Runs phases one after another, each using what the ones before wrote, in a single parallel loop: threads are woken
// once, and one that shares its core with another process takes fewer items. `threads` is how many are worth waking.
void parallel_phases(std::int64_t threads, std::initializer_list<Phase> phases);

// How many threads parallel_for may use.
int num_threads();

// What a door installs. `run` must behave as parallel_for above.
struct ParallelBackend {
  void (*run)(std::int64_t begin, std::int64_t end, std::int64_t grain, RangeBody body);
  int (*num_threads)();
};

void set_parallel_backend(const ParallelBackend& backend);

// Threads of the core's own pool (used when no door installed another backend).
void set_pool_threads(int threads);

}  // namespace llada

// The core's own pool: threads - 1 workers, woken by a condition variable and never spinning, because a spinning
// barrier becomes ten times slower as soon as another process shares a core. The caller takes the first range. It alone
// waits awake, on any pool: for a bounded time, and soon by yielding its core.
#include "common/parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <limits>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace llada {
namespace {

thread_local bool inside_loop = false;

constexpr std::int64_t kSpins = 1000;  // tens of microseconds
// A thread put to sleep takes tens of microseconds to wake, so the caller of a loop waits a while before it sleeps.
constexpr std::int64_t kYieldsBeforeSleep = 500, kYieldsForEver = std::numeric_limits<std::int64_t>::max() - kSpins;

// Spins, then yields the core to whoever is waited for; gives up after so many yields.
template <class Done>
void wait_awake(std::int64_t yields, const Done& done) {
  for (std::int64_t turn = 0; turn < kSpins + yields && !done(); ++turn) {
    if (turn < kSpins) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    } else {
      std::this_thread::yield();
    }
  }
}

class Pool {
 public:
  // With fewer threads where the system refuses as many.
  explicit Pool(int threads) : wanted_(threads) {
    workers_.reserve(static_cast<std::size_t>(threads) - 1);
    try {
      for (int worker = 1; worker < threads; ++worker) workers_.emplace_back([this, worker] { work(worker); });
    } catch (const std::system_error&) {
    }
  }

  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int threads() const { return static_cast<int>(workers_.size()) + 1; }
  int wanted() const { return wanted_; }

  void run(std::int64_t begin, std::int64_t end, int parts, const RangeBody& body) {
    {
      const std::lock_guard lock(mutex_);
      begin_ = begin;
      end_ = end;
      parts_ = parts;
      body_ = &body;
      pending_ = threads() - 1;
      error_ = nullptr;
      ++generation_;
    }
    wake_.notify_all();
    run_part(0);
    wait_awake(kYieldsBeforeSleep, [this] { return pending_ == 0; });
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return pending_ == 0; });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void run_part(int part) {
    const std::int64_t size = end_ - begin_;
    const std::int64_t first = begin_ + size * part / parts_, last = begin_ + size * (part + 1) / parts_;
    if (first == last) return;
    inside_loop = true;
    try {
      (*body_)(first, last);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
    inside_loop = false;
  }

  void work(int worker) {
    std::int64_t seen = 0;
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
      if (stopping_) return;
      seen = generation_;
      if (worker < parts_) {
        lock.unlock();
        run_part(worker);
        lock.lock();
      }
      if (--pending_ == 0) done_.notify_one();
    }
  }

  const int wanted_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::int64_t begin_ = 0, end_ = 0, generation_ = 0;
  int parts_ = 0;
  std::atomic<int> pending_{0};
  const RangeBody* body_ = nullptr;
  std::exception_ptr error_;
  bool stopping_ = false;
};

int hardware_threads() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

std::mutex pool_mutex;  // held for a whole loop: the pool runs one loop at a time
std::atomic<int> pool_threads{0};
Pool* pool = nullptr;

// A forked child has none of its parent's workers and possibly a locked mutex: it starts with a fresh pool.
void forget_pool() {
  pool = nullptr;
  new (&pool_mutex) std::mutex;
}

Pool& ready_pool() {
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
  static_cast<void>(registered);
  const int threads = pool_threads > 0 ? pool_threads.load() : hardware_threads();
  if (pool != nullptr && pool->wanted() != threads) {
    delete pool;
    pool = nullptr;
  }
  if (pool == nullptr) pool = new Pool(threads);
  return *pool;
}

void pool_run(std::int64_t begin, std::int64_t end, std::int64_t grain, RangeBody body) {
  std::unique_lock lock(pool_mutex, std::defer_lock);
  const std::int64_t parts_wanted = (end - begin + grain - 1) / grain;
  if (inside_loop || parts_wanted <= 1 || !lock.try_lock()) return body(begin, end);
  Pool& workers = ready_pool();
  workers.run(begin, end, static_cast<int>(std::min<std::int64_t>(parts_wanted, workers.threads())), body);
}

int pool_num_threads() { return pool_threads > 0 ? pool_threads.load() : hardware_threads(); }

ParallelBackend backend{pool_run, pool_num_threads};

// Counts items that are over, be it by an exception.
class Finished {
 public:
  Finished(std::atomic<std::int64_t>& count, std::int64_t items) : count_(count), items_(items) {}
  Finished(const Finished&) = delete;
  Finished& operator=(const Finished&) = delete;
  ~Finished() { count_.fetch_add(items_, std::memory_order_release); }

 private:
  std::atomic<std::int64_t>& count_;
  std::int64_t items_;
};

}  // namespace

void parallel_for(std::int64_t begin, std::int64_t end, std::int64_t grain, RangeBody body) {
  if (begin >= end) return;
  std::atomic<std::int64_t> finished{0};
  backend.run(begin, end, std::max<std::int64_t>(grain, 1), [&](std::int64_t first, std::int64_t last) {
    {
      const Finished part(finished, last - first);
      body(first, last);
    }
    if (first > begin) return;  // the first part is the caller's
    wait_awake(kYieldsBeforeSleep, [&] { return finished.load(std::memory_order_acquire) == end - begin; });
  });
}

namespace {

// The state that the threads of parallel_phases share. A phase is over when all its items are done; whoever took an
// item is running, so waiting for it always ends, even if all threads are one.
class PhaseLoop {
 public:
  explicit PhaseLoop(std::initializer_list<Phase> phases) : phases_(phases), progress_(phases.size()) {}

  void work() {
    for (std::size_t p = 0; p < phases_.size(); ++p) {
      const Phase& phase = phases_.begin()[p];
      Progress& progress = progress_[p];
      const std::int64_t grain = std::max<std::int64_t>(phase.grain, 1);
      for (std::int64_t begin; (begin = progress.taken.fetch_add(grain, std::memory_order_relaxed)) < phase.items;) {
        const std::int64_t end = std::min(begin + grain, phase.items);
        try {
          phase.body(begin, end);
        } catch (...) {
          failed_.store(true, std::memory_order_release);
          throw;
        }
        progress.done.fetch_add(end - begin, std::memory_order_release);
      }
      if (!wait(progress.done, phase.items)) return;
    }
  }

 private:
  struct alignas(64) Progress {
    std::atomic<std::int64_t> taken{0}, done{0};
  };

  bool wait(const std::atomic<std::int64_t>& done, std::int64_t items) const {
    bool failed = false;
    wait_awake(kYieldsForEver, [&] {
      if (done.load(std::memory_order_acquire) >= items) return true;
      return failed = failed_.load(std::memory_order_acquire);
    });
    return !failed;
  }

  const std::initializer_list<Phase> phases_;
  std::vector<Progress> progress_;
  std::atomic<bool> failed_{false};
};

}  // namespace

void parallel_phases(std::int64_t threads, std::initializer_list<Phase> phases) {
  PhaseLoop loop(phases);
  parallel_for(0, std::clamp<std::int64_t>(threads, 1, num_threads()), 1,
               [&](std::int64_t, std::int64_t) { loop.work(); });
}

int num_threads() { return backend.num_threads(); }

void set_parallel_backend(const ParallelBackend& installed) { backend = installed; }

void set_pool_threads(int threads) { pool_threads = std::max(threads, 0); }

}  // namespace llada

#include "roofline/roofline.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/check.h"
#include "common/large_pages.h"
#include "common/parallel.h"
#include "roofline/caches.h"

namespace llada {
namespace {

constexpr std::int64_t kPage = 4096;

void require_threads(int threads) {
  require("roofline", "threads", threads >= 1 && threads <= num_threads(),
          "1 .. " + std::to_string(num_threads()) + ", what a kernel may use now", std::to_string(threads));
}

const ProbeProducts& products_of(Arithmetic arithmetic) {
  const ProbeKernels& kernels = select_probe_kernels(active_isa());
  switch (arithmetic) {
    case Arithmetic::kFp32:
      return kernels.fp32;
    case Arithmetic::kBf16:
      return kernels.bf16;
    case Arithmetic::kInt8:
      break;
  }
  return kernels.int8;
}

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct Took {
  double all;      // seconds from the start to the last thread's end
  double slowest;  // of one thread's own work, without waiting to be woken
};

template <class Work>
Took timed(int threads, const Work& work) {
  std::vector<double> own(threads);
  const auto start = Clock::now();
  parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t thread = begin; thread < end; ++thread) {
      const auto woken = Clock::now();
      work(thread);
      own[thread] = seconds_since(woken);
    }
  });
  return {seconds_since(start), *std::max_element(own.begin(), own.end())};
}

// Seconds per repeat of work(thread, repeats), in one round of about `seconds`. A round that turns out far shorter only
// corrects the number of repeats, so the first call finds it; waking threads may take long and must not count there.
template <class Work>
double timed_round(int threads, double seconds, RoundLength& length, const Work& work) {
  require("roofline", "seconds", seconds > 0 && seconds <= 60, "above 0 and at most 60", std::to_string(seconds));
  while (true) {
    const std::int64_t repeats = length.repeats(seconds);
    const Took took = timed(threads, [&](std::int64_t thread) { work(thread, repeats); });
    length.took(repeats, took.slowest);
    if (took.slowest >= seconds / 2) return took.all / static_cast<double>(repeats);
  }
}

}  // namespace

const ProbeKernels& select_probe_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512Fma) return probe_kernels_avx512fma();
  if (isa == Isa::kAvx512) return probe_kernels_avx512();
  if (isa == Isa::kAvx2) return probe_kernels_avx2();
#endif
  static_cast<void>(isa);
  return probe_kernels_portable();
}

std::int64_t RoundLength::repeats(double seconds) const {
  return std::max<std::int64_t>(1, std::llround(seconds / seconds_per_repeat_));
}

void RoundLength::took(std::int64_t repeats, double seconds) {
  constexpr double kClock = 1e-8;  // what the clock can tell apart, about
  seconds_per_repeat_ = std::min(seconds_per_repeat_, std::max(seconds, kClock) / static_cast<double>(repeats));
}

ReadProbe::ReadProbe(int threads, std::int64_t bytes_per_thread) : threads_(threads) {
  require_threads(threads);
  constexpr std::int64_t kMost = std::int64_t{1} << 40;
  require("roofline", "bytes_per_thread", bytes_per_thread >= 1 && bytes_per_thread <= kMost, "1 .. 2^40",
          std::to_string(bytes_per_thread));
  const ProbeKernels& kernels = select_probe_kernels(active_isa());
  read_ = bytes_per_thread > cache_sizes().l2 ? kernels.stream : kernels.read;
  bytes_ = (bytes_per_thread + kPage - 1) / kPage * kPage;
  mapping_bytes_ = static_cast<std::size_t>(bytes_ * threads) + kLargePage;
  mapping_ = mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping_ == MAP_FAILED) {
    throw std::runtime_error("roofline: no memory for a buffer of " + std::to_string(mapping_bytes_ >> 20) + " MiB");
  }
  const auto address = reinterpret_cast<std::uintptr_t>(mapping_);
  data_ = reinterpret_cast<char*>((address + kLargePage - 1) / kLargePage * kLargePage);
  prefer_large_pages(data_, static_cast<std::size_t>(bytes_ * threads));
  timed(threads_, [&](std::int64_t thread) { std::memset(data_ + thread * bytes_, 1, bytes_); });
}

ReadProbe::~ReadProbe() { munmap(mapping_, mapping_bytes_); }

double ReadProbe::round(double seconds) {
  const double pass = timed_round(threads_, seconds, length_, [&](std::int64_t thread, std::int64_t repeats) {
    for (std::int64_t i = 0; i < repeats; ++i) read_(data_ + thread * bytes_, bytes_);
  });
  return static_cast<double>(bytes_) * threads_ / pass;
}

ProductProbe::ProductProbe(int threads, Arithmetic arithmetic) : threads_(threads), products_(products_of(arithmetic)) {
  require_threads(threads);
}

double ProductProbe::round(double seconds) {
  const double tile =
      timed_round(threads_, seconds, length_, [&](std::int64_t, std::int64_t repeats) { products_.run(repeats); });
  return static_cast<double>(products_.operations) * threads_ / tile;
}

}  // namespace llada

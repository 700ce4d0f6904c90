// What this machine can do at best, measured: bytes read and products made per second by a number of threads on
// parallel_for. A probe is set up once and measured round by round, so that a benchmark can put rounds among its turns:
// on a shared machine the rate of memory moves by a factor of two within minutes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "roofline/probe_kernels.h"

namespace llada {

// How often a piece of work is repeated, so that a round lasts about as long as asked.
class RoundLength {
 public:
  std::int64_t repeats(double seconds) const;  // 1 at first
  void took(std::int64_t repeats, double seconds);

 private:
  double seconds_per_repeat_ = 60;  // of the fastest round
};

// Reading: every thread runs through memory of its own from one end to the other.
class ReadProbe {
 public:
  // Each thread's share is rounded up to whole pages; it is in large pages where the system gives them, and first
  // touched by its own thread. Throws ValueError for threads outside 1 .. num_threads() or fewer than one byte, and
  // std::runtime_error where the memory cannot be had.
  ReadProbe(int threads, std::int64_t bytes_per_thread);
  ~ReadProbe();
  ReadProbe(const ReadProbe&) = delete;
  ReadProbe& operator=(const ReadProbe&) = delete;

  // Bytes a second, of all threads together, over at least one whole pass. Throws ValueError unless 0 < seconds <= 60.
  double round(double seconds);

 private:
  int threads_;
  std::int64_t bytes_;  // of one thread
  ProbeRead read_;
  void* mapping_ = nullptr;
  std::size_t mapping_bytes_ = 0;
  char* data_ = nullptr;
  RoundLength length_;
};

// Multiply-adds on operands that never leave L1, the way the kernels of the instruction set in force do them.
class ProductProbe {
 public:
  // Throws ValueError for threads outside 1 .. num_threads().
  ProductProbe(int threads, Arithmetic arithmetic);

  // Operations a second, of all threads together; a multiply-add is two. Throws ValueError unless 0 < seconds <= 60.
  double round(double seconds);

 private:
  int threads_;
  ProbeProducts products_;
  RoundLength length_;
};

}  // namespace llada

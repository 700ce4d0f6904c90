// Runs a grid on one CPU thread: fibres are switched where CUDA threads meet or wait, in an order drawn from a seed.
#pragma once

#include <cstdint>
#include <vector>

#include "emulate/thread.h"

namespace llada::emulate {

struct Settings {
  // 0: threads in order, asynchronous work at the last moment. Any other seed draws the order of threads and the
  // moments of asynchronous work.
  std::uint64_t seed = 0;
  unsigned resident_blocks = 1;  // blocks that run interleaved
  int multiprocessors = 4;       // what the device says of itself
};

Settings& settings();

// Why the last launch failed; empty if it did not.
const char* last_error();

// What has run so far: the kernels' identities, instances of templates one by one, and how often any was launched.
std::vector<const void*> kernels_run();
std::uint64_t launches();

// 0, or a cudaError_t. Shared memory starts poisoned with 0xff (NaN in every floating-point type). `identity` tells
// kernels apart.
int launch(dim3 grid, dim3 block, std::size_t shared_bytes, void (*kernel)(void*), void* arguments,
           const void* identity);

// The running block's array of that key, made (and poisoned) at its first use.
void* static_array(const void* key, std::size_t bytes);

// __threadfence: everything before it happens before everything after the next one of any thread. Stronger than the
// GPU's, which needs an atomic in between.
void thread_fence();

// --- for the parts of the runtime
std::uint64_t draw();
bool coin();
void make_ready(Thread* thread);
void make_ready_all(Thread*& list);

// The running thread waits until make_ready; others run.
void wait_here(const Where& where);

// The running thread lets others run. A grid in which threads only ever yield is reported.
void yield(const Where& where);

// Ends the launch at the next switch, with a message that names the thread.
[[gnu::format(printf, 2, 3)]] void report(const Thread& thread, const char* format, ...);

// Ends the launch with a message that names the running thread. Never returns to the kernel.
[[noreturn]] [[gnu::format(printf, 1, 2)]] void fail(const char* format, ...);

}  // namespace llada::emulate

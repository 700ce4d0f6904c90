// A fibre: a stack of its own and a switch between stacks. Every CUDA thread is one.
#pragma once

#include <cstddef>

namespace llada::emulate {

struct Fibre {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  std::size_t stack_bytes = 0;
  void* tsan_fiber = nullptr;
  void* asan_fake_stack = nullptr;
};

// A fibre that will run entry() on its stack (allocated at the first call, with a guard page below it).
// entry calls fibre_entered() first and never returns.
void prepare_fibre(Fibre& fibre, void (*entry)());
void fibre_entered();

// Gives back what the fibre holds, wherever it stopped.
void discard_fibre(Fibre& fibre);

// The thread that calls becomes a fibre: the one that every other is started from.
void adopt_thread(Fibre& fibre);

// Leaves `from` and continues `to`. With `for_good`, `from` will only ever run again after a new prepare_fibre.
void switch_fibre(Fibre& from, Fibre& to, bool for_good = false);

}  // namespace llada::emulate

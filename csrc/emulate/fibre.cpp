#include "emulate/fibre.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "emulate/sanitizer.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef __x86_64__
#error "fibre.cpp has a context switch for x86-64 only"
#endif

// Saves the callee-saved registers on the old stack, its address in *save, and takes the new one's.
extern "C" void llada_emulate_switch(void** save, void* to);
asm(R"(
.text
.globl llada_emulate_switch
.hidden llada_emulate_switch
.type llada_emulate_switch,@function
llada_emulate_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size llada_emulate_switch,.-llada_emulate_switch
)");

namespace llada::emulate {
namespace {

constexpr int kSavedRegisters = 6;
constexpr std::size_t kGuardBytes = 4096;
#if defined(__SANITIZE_ADDRESS__) || defined(LLADA_EMULATE_TSAN)
constexpr std::size_t kStackBytes = 256 << 10;
#else
constexpr std::size_t kStackBytes = 64 << 10;
#endif

#ifdef __SANITIZE_ADDRESS__
Fibre* adopted = nullptr;
#endif

void allocate_stack(Fibre& fibre) {
  void* memory = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) {
    std::perror("emulate: a fibre's stack");
    std::abort();
  }
  fibre.stack = static_cast<char*>(memory) + kGuardBytes;
  fibre.stack_bytes = kStackBytes;
}

}  // namespace

void prepare_fibre(Fibre& fibre, void (*entry)()) {
  if (fibre.stack == nullptr) allocate_stack(fibre);
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(fibre.stack, fibre.stack_bytes);
  fibre.asan_fake_stack = nullptr;
#endif
#ifdef LLADA_EMULATE_TSAN
  if (fibre.tsan_fiber == nullptr) fibre.tsan_fiber = __tsan_create_fiber(0);
#endif
  auto** top = reinterpret_cast<void**>((reinterpret_cast<std::uintptr_t>(fibre.stack) + fibre.stack_bytes) &
                                        ~std::uintptr_t{15});
  *--top = nullptr;  // the ABI wants rsp % 16 == 8 at a function's entry
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  fibre.stack_pointer = top;
}

void discard_fibre(Fibre& fibre) {
  if (fibre.stack != nullptr) munmap(fibre.stack - kGuardBytes, kStackBytes + kGuardBytes);
#ifdef LLADA_EMULATE_TSAN
  if (fibre.tsan_fiber != nullptr) __tsan_destroy_fiber(fibre.tsan_fiber);
#endif
  fibre = Fibre();
}

void fibre_entered() {
#ifdef __SANITIZE_ADDRESS__
  const void* bottom;
  std::size_t bytes;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (adopted->stack == nullptr) {
    adopted->stack = static_cast<char*>(const_cast<void*>(bottom));
    adopted->stack_bytes = bytes;
  }
#endif
}

void adopt_thread(Fibre& fibre) {
  fibre = Fibre();
#ifdef __SANITIZE_ADDRESS__
  adopted = &fibre;
#endif
#ifdef LLADA_EMULATE_TSAN
  fibre.tsan_fiber = __tsan_get_current_fiber();
#endif
}

void switch_fibre(Fibre& from, Fibre& to, [[maybe_unused]] bool for_good) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(for_good ? nullptr : &from.asan_fake_stack, to.stack, to.stack_bytes);
#endif
#ifdef LLADA_EMULATE_TSAN
  constexpr unsigned kNoOrder = 1;  // a switch is not a synchronisation
  __tsan_switch_to_fiber(to.tsan_fiber, kNoOrder);
#endif
  llada_emulate_switch(&from.stack_pointer, to.stack_pointer);
#ifdef __SANITIZE_ADDRESS__
  const void* bottom;
  std::size_t bytes;
  __sanitizer_finish_switch_fiber(from.asan_fake_stack, &bottom, &bytes);
#endif
}

}  // namespace llada::emulate

// What the emulator tells the sanitizers. Its own state is not the kernel's business, so the runtime is compiled
// without -fsanitize=thread and announces happens-before itself (LLADA_EMULATE_TSAN, set by emulate.cmake).
#pragma once

#ifdef LLADA_EMULATE_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif

namespace llada::emulate {

// Everything before release(p) happens before everything after a later acquire(p). The address is only a name.
inline void release([[maybe_unused]] const void* name) {
#ifdef LLADA_EMULATE_TSAN
  __tsan_release(const_cast<void*>(name));
#endif
}

inline void acquire([[maybe_unused]] const void* name) {
#ifdef LLADA_EMULATE_TSAN
  __tsan_acquire(const_cast<void*>(name));
#endif
}

// Who makes the accesses of asynchronous work, to TSan: none of the threads.
class Actor {
 public:
  // Accesses in here are the actor's; `self` is the TSan fibre that runs.
  template <class Function>
  auto act([[maybe_unused]] void* self, Function function) {
#ifdef LLADA_EMULATE_TSAN
    constexpr unsigned kNoOrder = 1;
    if (fiber_ == nullptr) fiber_ = __tsan_create_fiber(0);
    __tsan_switch_to_fiber(fiber_, kNoOrder);
    const auto result = function();
    __tsan_switch_to_fiber(self, kNoOrder);
    return result;
#else
    return function();
#endif
  }

 private:
  [[maybe_unused]] void* fiber_ = nullptr;
};

}  // namespace llada::emulate

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

}  // namespace llada::emulate

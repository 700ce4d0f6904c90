// How tests set the emulator up, through ctypes; nothing of it is in the package's library.
#ifdef LLADA_EMULATE

#include <cstdint>

#include "emulate/scheduler.h"

extern "C" __attribute__((visibility("default"))) void llada_emulate_configure(std::uint64_t seed,
                                                                               unsigned resident_blocks,
                                                                               int multiprocessors) {
  llada::emulate::settings() = {seed, resident_blocks, multiprocessors};
}

#endif

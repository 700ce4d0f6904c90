// The emulator's settings and its diagnosis, for Python.
#include "emulate/scheduler.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void llada_emulate_configure(unsigned long long seed, unsigned resident_blocks) {
  llada::emulate::settings().seed = seed;
  llada::emulate::settings().resident_blocks = resident_blocks;
}

EXPORT const char* llada_emulate_error() { return llada::emulate::last_error(); }

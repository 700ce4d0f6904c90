// Memory that a thread keeps from call to call, so that hot loops do not allocate: it grows and is never shrunk.
// Each Tag is a buffer of its own; what it held before is undefined.
#pragma once

#include <cstddef>
#include <memory>

#include "cpu/scratch.h"

namespace llada {

template <class Tag, class T>
T* thread_scratch(std::int64_t count) {
  thread_local std::unique_ptr<Scratch<T>> buffer;
  thread_local std::int64_t capacity = 0;
  if (buffer == nullptr || count > capacity) {
    buffer.reset();  // before the new one: the peak is one buffer, not two
    capacity = 0;
    buffer = std::make_unique<Scratch<T>>(static_cast<std::size_t>(count));
    capacity = count;
  }
  return buffer->data();
}

}  // namespace llada

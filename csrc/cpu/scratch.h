// Memory of one call, 64-byte aligned and uninitialised; where it is large, in large pages if the system gives them:
// rows that lie 8 KB apart are written side by side.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

#include "common/large_pages.h"

namespace llada {

template <class T>
class Scratch {
 public:
  explicit Scratch(std::size_t count) : data_(nullptr, Free{alignment_of(count * sizeof(T))}) {
    const std::size_t bytes = count * sizeof(T);
    data_.reset(static_cast<T*>(::operator new[](bytes, data_.get_deleter().alignment)));
    if (data_.get_deleter().alignment == kPage) prefer_large_pages(data_.get(), bytes);
  }
  T* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kLine{64}, kPage{kLargePage};

  struct Free {
    std::align_val_t alignment;
    void operator()(T* data) const { ::operator delete[](data, alignment); }
  };

  static std::align_val_t alignment_of(std::size_t bytes) { return bytes < 2 * kLargePage ? kLine : kPage; }

  std::unique_ptr<T[], Free> data_;
};

}  // namespace llada

// Memory of one call, 64-byte aligned and uninitialised.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace llada {

template <class T>
class Scratch {
 public:
  explicit Scratch(std::size_t count)
      : data_(static_cast<T*>(::operator new[](count * sizeof(T), std::align_val_t{64}))) {}
  T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* data) const { ::operator delete[](data, std::align_val_t{64}); }
  };
  std::unique_ptr<T[], Free> data_;
};

}  // namespace llada

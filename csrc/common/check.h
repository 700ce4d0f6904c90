// Argument checks of the core and the two errors they raise. A message names the op and the argument,
// says what was expected and what came.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <stdexcept>
#include <string>

#include "common/array_view.h"

namespace llada {

// A wrong size, stride, range or device. Doors turn it into Python's ValueError.
struct ValueError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A wrong dtype. Doors turn it into Python's TypeError.
struct TypeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline constexpr std::int64_t kAnySize = -1;

// Where an op runs: all its arrays must be there.
struct Backend {
  DeviceKind device = DeviceKind::kCpu;
  int device_index = 0;
  bool float16 = false;  // whether its kernels take float16 beside float32 and bfloat16
};

inline constexpr Backend kCpuBackend{};

// Checks of one argument of one op; every method throws on failure and returns *this.
//   Check("linear", "x", args.x).cpu().dtype({DType::kFloat32, DType::kBFloat16}).shape({kAnySize,
//   k}).rows_contiguous();
class Check {
 public:
  Check(const char* op, const char* argument, const ArrayView& view) : op_(op), argument_(argument), view_(view) {}

  const Check& on(const Backend& backend) const;
  const Check& cpu() const { return on(kCpuBackend); }
  const Check& floating(const Backend& backend) const;  // the dtype of activations
  const Check& dtype(std::initializer_list<DType> allowed) const;
  const Check& shape(std::initializer_list<std::int64_t> sizes) const;  // kAnySize matches anything
  const Check& shape(std::span<const std::int64_t> sizes) const;
  const Check& contiguous() const;
  const Check& last_dim_contiguous() const;  // rows may be strided, elements of a row may not
  const Check& aligned(int bytes) const;

  [[noreturn]] void fail_value(const std::string& expected, const std::string& got) const;
  [[noreturn]] void fail_type(const std::string& expected, const std::string& got) const;

 private:
  std::string prefix() const;
  const char* op_;
  const char* argument_;
  const ArrayView& view_;
};

// For what is not an array: require("router_topk", "k", k >= 1 && k <= experts, "1 <= k <= 64", std::to_string(k)).
void require(const char* op, const char* argument, bool good, const std::string& expected, const std::string& got);

}  // namespace llada

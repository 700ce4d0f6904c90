#include "common/check.h"

namespace llada {
namespace {

std::string strides_text(const ArrayView& view) {
  std::string text = "strides [";
  for (int dim = 0; dim < view.rank; ++dim) {
    if (dim > 0) text += ", ";
    text += std::to_string(view.strides[dim]);
  }
  return text + "]";
}

}  // namespace

std::string Check::prefix() const { return std::string(op_) + ": " + argument_ + " must "; }

void Check::fail_value(const std::string& expected, const std::string& got) const {
  throw ValueError(prefix() + expected + ", got " + got);
}

void Check::fail_type(const std::string& expected, const std::string& got) const {
  throw TypeError(prefix() + expected + ", got " + got);
}

const Check& Check::on(const Backend& backend) const {
  ArrayView there;
  there.device = backend.device;
  there.device_index = backend.device_index;
  const bool same_index = view_.device == DeviceKind::kCpu || view_.device_index == backend.device_index;
  if (view_.device != backend.device || !same_index) {
    fail_value("be on " + device_text(there) + ", where the op runs", device_text(view_));
  }
  return *this;
}

const Check& Check::floating(const Backend& backend) const {
  if (backend.float16) return dtype({DType::kFloat32, DType::kBFloat16, DType::kFloat16});
  return dtype({DType::kFloat32, DType::kBFloat16});
}

const Check& Check::dtype(std::initializer_list<DType> allowed) const {
  std::string expected;
  for (const DType dtype : allowed) {
    if (view_.dtype == dtype) return *this;
    if (!expected.empty()) expected += " or ";
    expected += dtype_name(dtype);
  }
  fail_type("be " + expected, dtype_name(view_.dtype));
}

const Check& Check::shape(std::initializer_list<std::int64_t> sizes) const {
  return shape(std::span(sizes.begin(), sizes.size()));
}

const Check& Check::shape(std::span<const std::int64_t> sizes) const {
  bool good = view_.rank == static_cast<int>(sizes.size());
  std::string expected;
  int dim = 0;
  for (const std::int64_t size : sizes) {
    if (good && size != kAnySize && size != view_.sizes[dim]) good = false;
    if (dim++ > 0) expected += ", ";
    expected += size == kAnySize ? "*" : std::to_string(size);
  }
  if (!good) fail_value("have shape [" + expected + "]", shape_text(view_));
  return *this;
}

const Check& Check::contiguous() const {
  if (view_.elements() == 0) return *this;
  std::int64_t expected = 1;
  for (int dim = view_.rank - 1; dim >= 0; --dim) {
    if (view_.sizes[dim] != 1 && view_.strides[dim] != expected) fail_value("be contiguous", strides_text(view_));
    expected *= view_.sizes[dim];
  }
  return *this;
}

const Check& Check::last_dim_contiguous() const {
  const int last = view_.rank - 1;
  if (last < 0 || view_.elements() == 0 || view_.sizes[last] == 1 || view_.strides[last] == 1) return *this;
  fail_value("have a contiguous last dimension", strides_text(view_));
}

const Check& Check::aligned(int bytes) const {
  const auto past = reinterpret_cast<std::uintptr_t>(view_.data) % bytes;
  if (view_.elements() == 0 || past == 0) return *this;
  fail_value("be aligned to " + std::to_string(bytes) + " bytes", "an address " + std::to_string(past) + " past that");
}

void require(const char* op, const char* argument, bool good, const std::string& expected, const std::string& got) {
  if (!good) throw ValueError(std::string(op) + ": " + argument + " must be " + expected + ", got " + got);
}

}  // namespace llada

#include "binding/numpy/arrays.h"

#include "binding/numpy/dlpack.h"
#include "common/check.h"
#include "common/large_pages.h"

namespace llada {
namespace {

constexpr const char* kCapsule = "dltensor";
constexpr const char* kUsedCapsule = "used_dltensor";

void require_rank(std::int64_t rank) {
  if (rank > ArrayView::kMaxRank) throw ValueError("an array has more than 6 dimensions");
}

DType numpy_dtype(const py::dtype& dtype) {
  if (dtype.byteorder() == '>') return DType::kOther;
  switch (dtype.kind()) {
    case 'f':
      return dtype.itemsize() == 4 ? DType::kFloat32 : dtype.itemsize() == 8 ? DType::kFloat64 : DType::kOther;
    case 'i':
      if (dtype.itemsize() == 1) return DType::kInt8;
      return dtype.itemsize() == 4 ? DType::kInt32 : dtype.itemsize() == 8 ? DType::kInt64 : DType::kOther;
    case 'u':
      return dtype.itemsize() == 1 ? DType::kUInt8 : DType::kOther;
    case 'b':
      return DType::kBool;
    default:
      return DType::kOther;
  }
}

DType dlpack_dtype(const dlpack::DataType& dtype) {
  if (dtype.lanes != 1) return DType::kOther;
  if (dtype.code == dlpack::kBFloat && dtype.bits == 16) return DType::kBFloat16;
  if (dtype.code == dlpack::kFloat && dtype.bits == 32) return DType::kFloat32;
  if (dtype.code == dlpack::kFloat && dtype.bits == 64) return DType::kFloat64;
  if (dtype.code == dlpack::kInt && dtype.bits == 32) return DType::kInt32;
  if (dtype.code == dlpack::kInt && dtype.bits == 64) return DType::kInt64;
  if (dtype.code == dlpack::kInt && dtype.bits == 8) return DType::kInt8;
  if (dtype.code == dlpack::kUInt && dtype.bits == 8) return DType::kUInt8;
  if (dtype.code == dlpack::kBool) return DType::kBool;
  return DType::kOther;
}

Input from_numpy(const py::array& array) {
  Input result;
  require_rank(array.ndim());
  result.view.data = const_cast<void*>(array.data());
  result.view.dtype = numpy_dtype(array.dtype());
  result.view.rank = static_cast<int>(array.ndim());
  for (int dim = 0; dim < result.view.rank; ++dim) {
    result.view.sizes[dim] = array.shape(dim);
    if (array.strides(dim) % array.itemsize() != 0) throw ValueError("an array's strides are no multiple of its items");
    result.view.strides[dim] = array.strides(dim) / array.itemsize();
  }
  if (reinterpret_cast<std::uintptr_t>(array.data()) % array.itemsize() != 0) {
    throw ValueError("an array is not aligned to its items; copy it first");
  }
  result.owner = array;
  return result;
}

Input from_dlpack(py::handle array) {
  Input result;
  const py::capsule capsule = array.attr("__dlpack__")();
  auto* managed = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), kCapsule));
  if (managed == nullptr) throw py::error_already_set();
  const dlpack::Tensor& tensor = managed->tensor;
  if (tensor.device.type != dlpack::kCpu) throw ValueError("a DLPack tensor is not on the CPU");
  require_rank(tensor.rank);
  result.view.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  result.view.dtype = dlpack_dtype(tensor.dtype);
  result.view.rank = tensor.rank;
  std::int64_t stride = 1;
  for (int dim = tensor.rank - 1; dim >= 0; --dim) {
    result.view.sizes[dim] = tensor.shape[dim];
    result.view.strides[dim] = tensor.strides == nullptr ? stride : tensor.strides[dim];
    stride *= tensor.shape[dim];
  }
  result.owner = capsule;  // not renamed: its own destructor calls the deleter
  return result;
}

}  // namespace

Input input(py::handle array) {
  if (py::isinstance<py::array>(array)) return from_numpy(py::reinterpret_borrow<py::array>(array));
  if (py::hasattr(array, "__dlpack__")) return from_dlpack(array);
  throw TypeError("expected a NumPy array or a DLPack tensor, got " +
                  py::cast<std::string>(py::type::of(array).attr("__name__")));
}

Input optional_input(py::handle array) { return array.is_none() ? Input{} : input(array); }

py::array BFloat16Array::bits() const {
  auto* keep = new std::shared_ptr<std::uint16_t[]>(data);
  const py::capsule owner(keep, [](void* held) { delete static_cast<std::shared_ptr<std::uint16_t[]>*>(held); });
  return py::array_t<std::uint16_t>(sizes, data.get(), owner);
}

py::capsule BFloat16Array::dlpack() const {
  struct Context {
    dlpack::ManagedTensor managed;
    BFloat16Array array;
  };
  auto* context = new Context{{}, *this};
  dlpack::Tensor& tensor = context->managed.tensor;
  tensor.data = data.get();
  tensor.device = {dlpack::kCpu, 0};
  tensor.rank = static_cast<std::int32_t>(sizes.size());
  tensor.dtype = {dlpack::kBFloat, 16, 1};
  tensor.shape = context->array.sizes.data();
  context->managed.context = context;
  context->managed.deleter = [](dlpack::ManagedTensor* managed) { delete static_cast<Context*>(managed->context); };
  return py::capsule(&context->managed, kCapsule, [](PyObject* capsule) {
    if (PyCapsule_IsValid(capsule, kUsedCapsule)) return;  // the importer owns it now
    auto* managed = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule, kCapsule));
    managed->deleter(managed);
  });
}

Output output(DType dtype, const std::vector<std::int64_t>& sizes) {
  Output result;
  result.view.dtype = dtype;
  result.view.rank = static_cast<int>(sizes.size());
  std::int64_t stride = 1;
  for (int dim = result.view.rank - 1; dim >= 0; --dim) {
    result.view.sizes[dim] = sizes[dim];
    result.view.strides[dim] = stride;
    stride *= sizes[dim];
  }
  if (dtype == DType::kBFloat16) {
    BFloat16Array array{std::make_shared_for_overwrite<std::uint16_t[]>(stride), sizes};
    prefer_large_pages_of_result(array.data.get(), stride * sizeof(std::uint16_t));
    result.view.data = array.data.get();
    result.array = py::cast(std::move(array));
    return result;
  }
  py::array array(py::dtype(dtype == DType::kInt32 ? "int32" : dtype == DType::kInt64 ? "int64" : "float32"), sizes);
  result.view.data = array.mutable_data();
  result.array = std::move(array);
  return result;
}

Output output_like(const char* op, const char* argument, const ArrayView& view) {
  Check(op, argument, view).dtype({DType::kFloat32, DType::kBFloat16});
  return output(view.dtype, std::vector<std::int64_t>(view.sizes.begin(), view.sizes.begin() + view.rank));
}

void bind_arrays(py::module_& module) {
  py::class_<BFloat16Array>(module, "BFloat16Array",
                            "A bfloat16 result. NumPy has no bfloat16: take it by DLPack (torch.from_dlpack, "
                            "jax.dlpack.from_dlpack) or read the 16-bit patterns through `bits`.")
      .def_property_readonly("shape", [](const BFloat16Array& self) { return py::tuple(py::cast(self.sizes)); })
      .def_property_readonly("bits", &BFloat16Array::bits, "The same memory as a NumPy uint16 array.")
      .def("__dlpack__", [](const BFloat16Array& self, const py::kwargs&) { return self.dlpack(); })
      .def("__dlpack_device__", [](const BFloat16Array&) { return py::make_tuple(int{dlpack::kCpu}, 0); });
}

}  // namespace llada

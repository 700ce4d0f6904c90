#include "roofline/roofline.h"

#include <pybind11/pybind11.h>

#include <memory>
#include <string>

#include "common/check.h"
#include "roofline/caches.h"

namespace llada {
namespace {

namespace py = pybind11;

std::unique_ptr<ProductProbe> product_probe(int threads, const std::string& dtype) {
  const bool fp32 = dtype == "fp32", bf16 = dtype == "bf16";
  require("roofline", "dtype", fp32 || bf16 || dtype == "int8", "fp32, bf16 or int8", "'" + dtype + "'");
  return std::make_unique<ProductProbe>(threads, fp32   ? Arithmetic::kFp32
                                                 : bf16 ? Arithmetic::kBf16
                                                        : Arithmetic::kInt8);
}

py::dict caches() {
  const CacheSizes sizes = cache_sizes();
  py::dict result;
  result["l1"] = sizes.l1;
  result["l2"] = sizes.l2;
  result["l3"] = sizes.l3;
  result["cores"] = sizes.cores;
  return result;
}

}  // namespace

void bind_roofline(py::module_& module) {
  const py::call_guard<py::gil_scoped_release> release;
  py::class_<ReadProbe>(module, "ReadProbe",
                        "Rate at which so many threads read, each its own bytes from one end to the other.")
      .def(py::init<int, std::int64_t>(), py::arg("threads"), py::arg("bytes_per_thread"), release)
      .def("round", &ReadProbe::round, py::arg("seconds"), release, "Bytes a second in one round of about so long.");
  py::class_<ProductProbe>(module, "ProductProbe",
                           "Rate at which so many threads multiply and add in fp32, bf16 or int8, operands in L1.")
      .def(py::init(&product_probe), py::arg("threads"), py::arg("dtype"), release)
      .def("round", &ProductProbe::round, py::arg("seconds"), release,
           "Operations a second (a multiply-add is two) in one round of about so long.");
  module.def("cache_sizes", &caches, "Bytes of l1 and l2 (of one core) and l3, and the cores that share an l3.");
}

}  // namespace llada

// Python module hotrow._bench_native: the minimal loops, for hotrow.bench.roofline, which checks what it passes.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "roofline.h"

namespace nb = nanobind;
using hotrow::bench::Roofline;

namespace {

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

}  // namespace

NB_MODULE(_bench_native, m) {
  const auto no_gil = nb::call_guard<nb::gil_scoped_release>();
  nb::class_<Roofline>(m, "Roofline")
      .def(nb::init<int64_t, int64_t, int, bool, int, const std::string&>(), nb::arg("num_tables"), nb::arg("num_rows"),
           nb::arg("dim"), nb::arg("int8"), nb::arg("num_threads"), nb::arg("level"))
      .def_prop_ro("level", &Roofline::level)
      .def_prop_ro("row_bytes", &Roofline::row_bytes)
      .def("tune", [](Roofline& self, int distance, int block_bags, bool by_sample,
                      bool stream) { self.tuning = {distance, block_bags, by_sample, stream}; })
      .def("write_table", [](Roofline& self, int64_t t, uintptr_t rows) { self.write_table(t, at<void>(rows)); })
      .def("read_table", [](const Roofline& self, int64_t t, uintptr_t rows) { self.read_table(t, at<void>(rows)); })
      .def(
          "forward",
          [](Roofline& self, uintptr_t ids, int64_t num_bags, int64_t ids_per_bag, uintptr_t out) {
            self.forward(at<const int64_t>(ids), num_bags, ids_per_bag, at<float>(out));
          },
          no_gil)
      .def(
          "second",
          [](Roofline& self, uintptr_t ids, int64_t num_bags, int64_t ids_per_bag, uintptr_t out) {
            self.second(at<const int64_t>(ids), num_bags, ids_per_bag, at<float>(out));
          },
          no_gil)
      .def(
          "update",
          [](Roofline& self, uintptr_t ids, int64_t num_bags, int64_t ids_per_bag, uintptr_t grad, float learning_rate,
             float eps) {
            self.update(at<const int64_t>(ids), num_bags, ids_per_bag, at<const float>(grad), learning_rate, eps);
          },
          no_gil);
}

#include <nanobind/nanobind.h>

#include <cstdint>
#include <new>

#include "bindings.h"
#include "hotrow/order_map.h"
#include "values.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace hotrow {
namespace {

/// from, to: addresses of uint32 [count].
void construct(OrderMap* self, int64_t num_rows, uintptr_t from, uintptr_t to, size_t count) {
  const nb::gil_scoped_release release;
  new (self) OrderMap(num_rows, {pointer<const uint32_t>(from), count}, {pointer<const uint32_t>(to), count});
}

template <typename Number>
void translate(const OrderMap& map, uintptr_t values, int64_t count, uintptr_t out) {
  const nb::gil_scoped_release release;
  map.translate(pointer<const Number>(values), count, pointer<Number>(out));
}

}  // namespace

void bind_orders(nb::module_& m) {
  nb::class_<OrderMap>(m, "OrderMap")
      .def("__init__", &construct, "num_rows"_a, "from_"_a, "to"_a, "count"_a)
      .def("translate_int32", &translate<int32_t>, "values"_a, "count"_a, "out"_a)
      .def("translate_int64", &translate<int64_t>, "values"_a, "count"_a, "out"_a)
      .def("translate_uint32", &translate<uint32_t>, "values"_a, "count"_a, "out"_a)
      .def_prop_ro("memory_bytes", &OrderMap::memory_bytes);
}

}  // namespace hotrow

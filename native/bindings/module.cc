// hotrow._native: thin functions over the native core. They take addresses and counts; the Python side checks types,
// shapes and devices, keeps the memory alive and turns what is returned into errors.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "bindings.h"
#include "hotrow/kernels.h"

namespace nb = nanobind;

NB_MODULE(_native, m) {
  // Graphs that live as long as a script's globals are freed by torch after the interpreter has gone.
  nb::set_leak_warnings(false);
  m.def("cpu_levels", [] {
    std::vector<std::string> names;
    for (const hotrow::KernelTable* table : hotrow::supported_levels()) names.emplace_back(table->name);
    return names;
  });
  m.def("active_level", [] { return std::string(hotrow::active_level().name); });
  m.def("force_level", [](std::string_view name) { return hotrow::force_level(name); }, nb::arg("name"));
  hotrow::bind_lookup(m);
  hotrow::bind_arena(m);
  hotrow::bind_update(m);
  hotrow::bind_storage_cache(m);
  hotrow::bind_records(m);
  hotrow::bind_storage_files(m);
  hotrow::bind_storage_rows(m);
  hotrow::bind_profiling(m);
  hotrow::bind_orders(m);
}

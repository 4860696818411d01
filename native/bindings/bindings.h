#pragma once

#include <nanobind/nanobind.h>

namespace hotrow {

void bind_lookup(nanobind::module_& m);
void bind_arena(nanobind::module_& m);
void bind_update(nanobind::module_& m);
void bind_storage_cache(nanobind::module_& m);
void bind_records(nanobind::module_& m);
void bind_storage_files(nanobind::module_& m);
void bind_storage_rows(nanobind::module_& m);
void bind_profiling(nanobind::module_& m);
void bind_orders(nanobind::module_& m);

}  // namespace hotrow

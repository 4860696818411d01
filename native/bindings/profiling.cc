#include "hotrow/profiling.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "values.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace hotrow {
namespace {

using profiling::AccessCounters;
using profiling::TableCounter;

template <typename T>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

template <typename T>
Array<T> array_of(std::vector<T> values) {
  auto* kept = new std::vector<T>(std::move(values));
  const nb::capsule owner(kept, [](void* data) noexcept { delete static_cast<std::vector<T>*>(data); });
  return Array<T>(kept->data(), {kept->size()}, owner);
}

template <typename T>
std::span<const T> span_of(uintptr_t address, int64_t count) {
  return {pointer<const T>(address), static_cast<size_t>(count)};
}

/// (num_rows or 0, is_dense, max_events, batch_size, max_windows, max_row_windows)
using Options = std::tuple<int64_t, bool, int64_t, int64_t, int, int>;

void construct(AccessCounters* self, const std::vector<Options>& tables, int64_t dense_bytes) {
  std::vector<profiling::TableOptions> options;
  for (const auto& [num_rows, is_dense, max_events, batch_size, max_windows, max_row_windows] : tables) {
    options.push_back({num_rows, is_dense, max_events, batch_size, max_windows, max_row_windows});
  }
  new (self) AccessCounters(options, dense_bytes);
}

/// (kind, feature, sample, position, value), or None.
using Fault = std::optional<std::tuple<int, int64_t, int64_t, int64_t, int64_t>>;

Fault add(AccessCounters& counters, uintptr_t ids, bool ids_are_64_bit, int64_t num_ids, uintptr_t offsets,
          bool offsets_are_64_bit, int64_t num_samples, int64_t num_features,
          const std::vector<std::pair<int32_t, int32_t>>& readers, int num_threads) {
  const nb::gil_scoped_release release;
  std::vector<profiling::Reader> reading;
  for (const auto& [feature, table] : readers) reading.push_back({feature, table});
  const profiling::BatchError error =
      counters.add({pointer<const void>(ids), ids_are_64_bit, num_ids, pointer<const void>(offsets), offsets_are_64_bit,
                    num_samples, num_features, reading},
                   num_threads);
  if (error.fault == profiling::BatchFault::kNone) return std::nullopt;
  return std::make_tuple(static_cast<int>(error.fault), error.feature, error.sample, error.position, error.value);
}

Array<uint32_t> take_counts(TableCounter& table) {
  int64_t count = 0;
  uint32_t* values = nullptr;
  {
    const nb::gil_scoped_release release;
    values = table.dense.take_touched(count);
  }
  const nb::capsule owner(values, [](void* data) noexcept { std::free(data); });
  return Array<uint32_t>(values, {static_cast<size_t>(count)}, owner);
}

/// (rows, samples); the table does not keep them.
std::pair<Array<uint32_t>, Array<uint32_t>> take_events(TableCounter& table) {
  std::vector<uint32_t> rows, samples;
  {
    const nb::gil_scoped_release release;
    rows.reserve(table.events.size());
    samples.reserve(table.events.size());
    for (const profiling::Event& event : table.events) {
      rows.push_back(event.row);
      samples.push_back(event.sample);
    }
    std::vector<profiling::Event>().swap(table.events);
  }
  return {array_of(std::move(rows)), array_of(std::move(samples))};
}

Array<uint32_t> take_head_sample(TableCounter& table) { return array_of(std::exchange(table.head_sample, {})); }

/// Begins of the groups of places, and lookups [window * groups + group].
std::pair<Array<uint32_t>, Array<uint64_t>> place_windows(TableCounter& table) {
  const size_t num_groups = table.windows.num_groups();
  std::vector<uint32_t> begins;
  for (size_t group = 0; group < num_groups; ++group) begins.push_back(profiling::group_begin(static_cast<int>(group)));
  const uint64_t* counts = table.windows.counts().data();
  const size_t num_counts = static_cast<size_t>(table.windows.num_windows()) * num_groups;
  return {array_of(std::move(begins)), array_of(std::vector<uint64_t>(counts, counts + num_counts))};
}

/// Rows in order of their number, and lookups [window * rows + number]; nothing where time is not sampled.
std::pair<Array<uint32_t>, Array<uint64_t>> row_windows(TableCounter& table) {
  if (table.row_windows == nullptr) return {array_of(std::vector<uint32_t>()), array_of(std::vector<uint64_t>())};
  const std::vector<uint32_t>& rows = table.row_windows->rows();
  const profiling::WindowCounts& windows = table.row_windows->windows();
  std::vector<uint64_t> counts;
  for (int window = 0; window < windows.num_windows(); ++window) {
    const uint64_t* first = windows.counts().data() + static_cast<size_t>(window) * windows.num_groups();
    counts.insert(counts.end(), first, first + rows.size());
  }
  return {array_of(rows), array_of(std::move(counts))};
}

Array<uint32_t> row_hashes(uintptr_t rows, int64_t count, uint32_t seed) {
  std::vector<uint32_t> found;
  {
    const nb::gil_scoped_release release;
    found.reserve(static_cast<size_t>(count));
    for (const uint32_t row : span_of<uint32_t>(rows, count)) found.push_back(profiling::row_hash(row, seed));
  }
  return array_of(std::move(found));
}

std::pair<Array<uint32_t>, Array<uint32_t>> renumber(uintptr_t rows, int64_t count) {
  profiling::Renumbered found;
  {
    const nb::gil_scoped_release release;
    found = profiling::renumber(span_of<uint32_t>(rows, count));
  }
  return {array_of(std::move(found.rows)), array_of(std::move(found.numbers))};
}

Array<uint32_t> first_touches(uintptr_t rows, uintptr_t groups, int64_t count, int64_t num_rows) {
  std::vector<uint32_t> found;
  {
    const nb::gil_scoped_release release;
    found = profiling::first_touches(span_of<uint32_t>(rows, count), span_of<uint32_t>(groups, count), num_rows);
  }
  return array_of(std::move(found));
}

Array<uint32_t> stack_distances(uintptr_t rows, int64_t count, uintptr_t begin, int64_t num_groups, int64_t num_rows) {
  std::vector<uint32_t> found;
  {
    const nb::gil_scoped_release release;
    found =
        profiling::stack_distances(span_of<uint32_t>(rows, count), span_of<int64_t>(begin, num_groups + 1), num_rows);
  }
  return array_of(std::move(found));
}

std::array<uint64_t, 33> sum_distinct(uintptr_t rows, uintptr_t samples, int64_t count, int64_t num_rows,
                                      int64_t num_samples) {
  const nb::gil_scoped_release release;
  return profiling::sum_distinct(span_of<uint32_t>(rows, count), span_of<uint32_t>(samples, count), num_rows,
                                 num_samples);
}

std::vector<int64_t> simulate_caches(uintptr_t rows, int64_t count, uintptr_t begin, int64_t num_batches,
                                     int64_t num_rows, const std::vector<std::pair<int32_t, int64_t>>& caches,
                                     int look_ahead, int64_t count_from, int num_threads) {
  const nb::gil_scoped_release release;
  std::vector<profiling::CacheTrial> trials;
  for (const auto& [policy, num_slots] : caches) trials.push_back({static_cast<storage::Policy>(policy), num_slots});
  return profiling::simulate_caches(span_of<uint32_t>(rows, count), span_of<int64_t>(begin, num_batches + 1), num_rows,
                                    trials, look_ahead, count_from, num_threads);
}

}  // namespace

void bind_profiling(nb::module_& m) {
  nb::class_<TableCounter>(m, "TableCounter")
      .def_ro("num_rows", &TableCounter::num_rows)
      .def_ro("num_lookups", &TableCounter::num_lookups)
      .def_ro("num_bags", &TableCounter::num_bags)
      .def_ro("num_distinct", &TableCounter::num_distinct)
      .def_ro("num_head_sampled", &TableCounter::num_head_sampled)
      .def_ro("row_threshold", &TableCounter::row_threshold)
      .def_ro("time_level", &TableCounter::time_level)
      .def_ro("samples_per_span", &TableCounter::samples_per_span)
      .def_ro("stamp_bits", &TableCounter::stamp_bits)
      .def_ro("bag_lengths", &TableCounter::bag_lengths)
      .def_ro("long_bags", &TableCounter::long_bags)
      .def_prop_ro("is_dense", &TableCounter::is_dense)
      .def_prop_ro("num_head_waiting", [](const TableCounter& table) { return table.head_sample.size(); })
      .def_prop_ro("samples_per_window", [](const TableCounter& table) { return table.windows.samples_per_window(); })
      .def("place_windows", &place_windows)
      .def_prop_ro("samples_per_row_window",
                   [](const TableCounter& table) {
                     return table.row_windows == nullptr ? 0 : table.row_windows->windows().samples_per_window();
                   })
      .def("row_windows", &row_windows)
      .def("follows", &TableCounter::follows, "sample"_a)
      .def("take_counts", &take_counts)
      .def("take_events", &take_events)
      .def("take_head_sample", &take_head_sample);
  nb::class_<AccessCounters>(m, "AccessCounters")
      .def("__init__", &construct, "tables"_a, "dense_bytes"_a)
      .def("add", &add, "ids"_a, "ids_are_64_bit"_a, "num_ids"_a, "offsets"_a, "offsets_are_64_bit"_a, "num_samples"_a,
           "num_features"_a, "readers"_a, "num_threads"_a)
      .def_prop_ro("num_samples", &AccessCounters::num_samples)
      .def("table", &AccessCounters::table, "index"_a, nb::rv_policy::reference_internal);
  m.def("row_hashes", &row_hashes, "rows"_a, "count"_a, "seed"_a);
  m.def("renumber", &renumber, "rows"_a, "count"_a);
  m.def("first_touches", &first_touches, "rows"_a, "groups"_a, "count"_a, "num_rows"_a);
  m.def("stack_distances", &stack_distances, "rows"_a, "count"_a, "begin"_a, "num_groups"_a, "num_rows"_a);
  m.def("sum_distinct", &sum_distinct, "rows"_a, "samples"_a, "count"_a, "num_rows"_a, "num_samples"_a);
  m.def("simulate_caches", &simulate_caches, "rows"_a, "count"_a, "begin"_a, "num_batches"_a, "num_rows"_a, "caches"_a,
        "look_ahead"_a, "count_from"_a, "num_threads"_a);
}

}  // namespace hotrow

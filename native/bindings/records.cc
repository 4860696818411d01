#include "hotrow/records.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <utility>
#include <vector>

#include "bindings.h"
#include "values.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace hotrow {
namespace {

/// The arenas of a collection as records.
struct RecordGroup {
  std::vector<RecordTable> tables;

  SlotList list(uintptr_t begin, uintptr_t slots) const {
    return {{pointer<const int64_t>(begin), tables.size() + 1}, pointer<const uint32_t>(slots)};
  }
};

void add_table(RecordGroup& group, uintptr_t rows, int64_t num_slots, int32_t dim, int32_t row_type,
               const std::vector<std::pair<uintptr_t, int64_t>>& state, uintptr_t row_ids, uint64_t random_key,
               double low, double high) {
  RecordTable table;
  table.rows = pointer<std::byte>(rows);
  table.num_slots = num_slots;
  table.dim = dim;
  table.row_type = static_cast<RowType>(row_type);
  for (const auto& [address, width] : state) table.state.push_back({pointer<float>(address), width});
  table.row_ids = pointer<int64_t>(row_ids);
  table.random_key = random_key;
  table.low = static_cast<float>(low);
  table.high = static_cast<float>(high);
  group.tables.push_back(std::move(table));
}

int64_t bound_read(const RecordGroup& group, uintptr_t begin, uintptr_t slots, uintptr_t records, int num_threads) {
  const nb::gil_scoped_release release;
  const SlotList list = group.list(begin, slots);
  const int64_t bad = find_bad_slot(group.tables, list);
  if (bad < 0) read_records(group.tables, list, pointer<std::byte>(records), num_threads);
  return bad;
}

int64_t bound_write(const RecordGroup& group, uintptr_t begin, uintptr_t slots, uintptr_t row_ids, uintptr_t records,
                    uintptr_t found, uint64_t seed, int num_threads) {
  const nb::gil_scoped_release release;
  const SlotList list = group.list(begin, slots);
  const int64_t bad = find_bad_slot(group.tables, list);
  if (bad < 0) {
    write_records(group.tables, list, pointer<const uint32_t>(row_ids), pointer<const std::byte>(records),
                  pointer<const uint8_t>(found), seed, num_threads);
  }
  return bad;
}

int64_t bound_initialize(const RecordGroup& group, uintptr_t begin, uintptr_t slots, uintptr_t row_ids, uint64_t seed,
                         int num_threads) {
  const nb::gil_scoped_release release;
  const SlotList list = group.list(begin, slots);
  const int64_t bad = find_bad_slot(group.tables, list);
  if (bad < 0) initialize_slots(group.tables, list, pointer<const uint32_t>(row_ids), seed, num_threads);
  return bad;
}

}  // namespace

void bind_records(nb::module_& m) {
  nb::class_<RecordGroup>(m, "RecordGroup")
      .def(nb::init<>())
      .def("add_table", &add_table, "rows"_a, "num_slots"_a, "dim"_a, "row_type"_a, "state"_a, "row_ids"_a,
           "random_key"_a, "low"_a, "high"_a)
      .def("read", &bound_read, "begin"_a, "slots"_a, "records"_a, "num_threads"_a)
      .def("write", &bound_write, "begin"_a, "slots"_a, "row_ids"_a, "records"_a, "found"_a, "seed"_a, "num_threads"_a)
      .def("initialize", &bound_initialize, "begin"_a, "slots"_a, "row_ids"_a, "seed"_a, "num_threads"_a);
}

}  // namespace hotrow

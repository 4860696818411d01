#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "hotrow/storage/row_store.h"
#include "values.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace hotrow {
namespace {

using storage::LogOptions;
using storage::RowLog;
using storage::RowStore;
using storage::TableLayout;

/// (name, num_rows, record_bytes, order_id, record)
using Table = std::tuple<std::string, int64_t, int64_t, std::string, std::string>;

std::vector<TableLayout> layouts(const std::vector<Table>& tables) {
  std::vector<TableLayout> result;
  for (const auto& [name, num_rows, record_bytes, order_id, record] : tables) {
    result.push_back({name, num_rows, record_bytes, order_id, record});
  }
  return result;
}

/// A store until it is closed; what is called afterwards is refused.
class BoundStore {
 public:
  BoundStore(std::unique_ptr<RowLog> log, int64_t buffer_bytes)
      : store_(std::make_shared<RowStore>(std::move(log), buffer_bytes)) {}

  std::shared_ptr<RowStore> get() const {
    if (!store_) throw std::runtime_error("the row store is closed");
    return store_;
  }
  void close() {
    std::shared_ptr<RowStore> store = std::exchange(store_, nullptr);
    const nb::gil_scoped_release release;
    store.reset();
  }

 private:
  std::shared_ptr<RowStore> store_;
};

LogOptions options(std::shared_ptr<storage::FileSystem> files, double max_garbage, int64_t gap_bytes,
                   int64_t staging_bytes, int64_t writer_bytes, bool read_only) {
  LogOptions result;
  result.files = std::move(files);
  result.max_garbage = max_garbage;
  result.gap_bytes = gap_bytes;
  result.staging_bytes = staging_bytes;
  result.writer_bytes = writer_bytes;
  result.read_only = read_only;
  return result;
}

std::unique_ptr<BoundStore> create(const std::string& directory, const std::vector<Table>& tables,
                                   std::shared_ptr<storage::FileSystem> files, int64_t buffer_bytes, double max_garbage,
                                   int64_t gap_bytes, int64_t staging_bytes, int64_t writer_bytes) {
  const nb::gil_scoped_release release;
  const LogOptions with = options(std::move(files), max_garbage, gap_bytes, staging_bytes, writer_bytes, false);
  return std::make_unique<BoundStore>(RowLog::create(directory, layouts(tables), with), buffer_bytes);
}

std::unique_ptr<BoundStore> open(const std::string& directory, const std::string& commit,
                                 const std::vector<Table>& tables, std::shared_ptr<storage::FileSystem> files,
                                 int64_t buffer_bytes, double max_garbage, int64_t gap_bytes, int64_t staging_bytes,
                                 int64_t writer_bytes, bool read_only) {
  const nb::gil_scoped_release release;
  const LogOptions with = options(std::move(files), max_garbage, gap_bytes, staging_bytes, writer_bytes, read_only);
  return std::make_unique<BoundStore>(RowLog::open(directory, commit, layouts(tables), with), buffer_bytes);
}

/// Calls back with (table, places, offset of the table's records in bytes, begin) for tables that have places.
/// begin: [tables + 1], where each table's places begin in `places`.
template <typename Use>
void for_each_table(const RowStore& store, uintptr_t begin, uintptr_t places, Use&& use) {
  const auto* starts = pointer<const int64_t>(begin);
  int64_t offset = 0;
  for (size_t table = 0; table < store.tables().size(); ++table) {
    const int64_t count = starts[table + 1] - starts[table];
    if (count < 0) throw std::invalid_argument("begin offsets are not ascending");
    if (count == 0) continue;
    const std::span<const uint32_t> of_table(pointer<const uint32_t>(places) + starts[table],
                                             static_cast<size_t>(count));
    use(static_cast<int64_t>(table), of_table, offset, starts[table]);
    offset += count * store.tables()[table].record_bytes;
  }
}

void read(const BoundStore& bound, uintptr_t begin, uintptr_t places, uintptr_t records, uintptr_t found) {
  const std::shared_ptr<RowStore> store = bound.get();
  const nb::gil_scoped_release release;
  std::vector<storage::ReadRequest> requests;
  for_each_table(*store, begin, places, [&](int64_t table, auto of_table, int64_t offset, int64_t first) {
    requests.push_back({table, of_table, pointer<std::byte>(records) + offset, pointer<uint8_t>(found) + first});
  });
  store->read(requests);
}

void write_back(const BoundStore& bound, uintptr_t begin, uintptr_t places, uintptr_t records) {
  const std::shared_ptr<RowStore> store = bound.get();
  const nb::gil_scoped_release release;
  std::vector<storage::AppendSection> sections;
  for_each_table(*store, begin, places, [&](int64_t table, auto of_table, int64_t offset, int64_t) {
    sections.push_back({table, of_table, pointer<const std::byte>(records) + offset});
  });
  store->write_back(sections);
}

/// piece(address of places, address of records, number of rows), with the GIL; the memory is the store's.
void scan(const BoundStore& bound, int64_t table, const nb::callable& piece) {
  const std::shared_ptr<RowStore> store = bound.get();
  const nb::gil_scoped_release release;
  store->scan(table, [&](std::span<const uint32_t> places, const std::byte* records) {
    const nb::gil_scoped_acquire acquire;
    piece(reinterpret_cast<uintptr_t>(places.data()), reinterpret_cast<uintptr_t>(records), places.size());
  });
}

std::map<std::string, int64_t> stats_of(const storage::StoreStats& stats) {
  const storage::LogStats& log = stats.log;
  return {{"live_bytes", log.live_bytes},
          {"disk_bytes", log.disk_bytes},
          {"num_runs", log.num_runs},
          {"index_bytes", log.index_bytes},
          {"rows_read", log.rows_read},
          {"pages_read", log.pages_read},
          {"read_requests", log.read_requests},
          {"read_bytes", log.read_bytes},
          {"rows_appended", log.rows_appended},
          {"append_bytes", log.append_bytes},
          {"compaction_bytes", log.compaction_bytes},
          {"buffer_bytes", stats.buffer_bytes},
          {"rows_from_buffer", stats.rows_from_buffer},
          {"write_back_waits", stats.write_back_waits}};
}

}  // namespace

void bind_storage_rows(nb::module_& m) {
  nb::class_<BoundStore>(m, "RowStore")
      .def_static("create", &create, "directory"_a, "tables"_a, "files"_a, "buffer_bytes"_a, "max_garbage"_a = 0.5,
                  "gap_bytes"_a = 0, "staging_bytes"_a = 8 << 20, "writer_bytes"_a = 4 << 20)
      .def_static("open", &open, "directory"_a, "commit"_a, "tables"_a, "files"_a, "buffer_bytes"_a,
                  "max_garbage"_a = 0.5, "gap_bytes"_a = 0, "staging_bytes"_a = 8 << 20, "writer_bytes"_a = 4 << 20,
                  "read_only"_a = false)
      .def("read", &read, "begin"_a, "places"_a, "records"_a, "found"_a)
      .def("write_back", &write_back, "begin"_a, "places"_a, "records"_a)
      .def(
          "commit",
          [](const BoundStore& bound, const std::string& directory) {
            const std::shared_ptr<RowStore> store = bound.get();
            const nb::gil_scoped_release release;
            return store->commit(directory);
          },
          "directory"_a)
      .def("settle",
           [](const BoundStore& bound) {
             const std::shared_ptr<RowStore> store = bound.get();
             const nb::gil_scoped_release release;
             store->settle();
           })
      .def("scan", &scan, "table"_a, "piece"_a)
      .def("stats", [](const BoundStore& bound) { return stats_of(bound.get()->stats()); })
      .def_prop_ro("memory_bytes", [](const BoundStore& bound) { return bound.get()->memory_bytes(); })
      .def("close", &BoundStore::close);
}

}  // namespace hotrow

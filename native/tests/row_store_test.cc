// The row store against a map: buffer and background beside readers, and what is left after errors.
#include "hotrow/storage/row_store.h"

#include <atomic>
#include <cerrno>
#include <thread>

#include "check.h"
#include "hotrow/storage/faulty.h"
#include "row_oracle.h"

namespace hotrow::test {
namespace {

using namespace hotrow::storage;

std::vector<TableLayout> some_tables() {
  return {{"small", 20000, 68, "identity", "{}"}, {"large", 6000, 260, "identity", "{}"}};
}

LogOptions options_with(std::shared_ptr<FileSystem> files) {
  LogOptions options;
  options.files = std::move(files);
  options.staging_bytes = 256 << 10;
  return options;
}

std::shared_ptr<FileSystem> plain_files() { return make_file_system(Backend::kThreads, 8); }

Batch random_batch(Random& random, const std::vector<TableLayout>& tables, uint64_t version, int64_t most) {
  Batch batch(tables, version);
  for (size_t t = 0; t < tables.size(); ++t) {
    batch.add(static_cast<int64_t>(t), draw_places(random, tables[t].num_rows, random.below(most)));
  }
  return batch;
}

void check_model(int64_t buffer_bytes) {
  const Scratch scratch("row_store_test");
  const auto tables = some_tables();
  RowStore store(RowLog::create(scratch / "log", tables, options_with(plain_files())), buffer_bytes);
  Oracle oracle;
  Random random(static_cast<uint64_t>(buffer_bytes) + 5);
  for (uint64_t version = 1; version <= 150; ++version) {
    const Batch batch = random_batch(random, tables, version, 1500);
    store.write_back(batch.sections());
    batch.note(oracle);
    check_rows(store, oracle, {draw_places(random, 20000, 500), draw_places(random, 6000, 300)});
    if (version % 40 != 0) continue;
    const std::string commit = scratch / ("commit" + std::to_string(version));
    std::filesystem::create_directory(commit);
    CHECK(store.commit(commit) > 0);
    LogOptions options = options_with(plain_files());
    options.read_only = true;
    RowStore committed(RowLog::open("", commit, tables, options), 0);
    check_all(committed, oracle);
  }
  check_scan(store, oracle);
  store.settle();
  check_all(store, oracle);
}

/// Readers beside a writer and its compactions: each row they see has a version between the last that was written
/// before they asked and the newest.
void check_threads() {
  const Scratch scratch("row_store_test");
  const std::vector<TableLayout> tables{{"rows", 4000, 68, "identity", "{}"}};
  RowStore store(RowLog::create(scratch / "log", tables, options_with(plain_files())), 128 << 10);
  std::vector<std::atomic<uint64_t>> before(4000), after(4000);
  std::atomic<bool> stop{false};
  const auto read = [&](uint64_t seed) {
    Random random(seed);
    while (!stop) {
      const auto places = draw_places(random, 4000, 64);
      std::vector<uint64_t> least(places.size());
      for (size_t i = 0; i < places.size(); ++i) least[i] = after[places[i]];
      std::vector<std::byte> records(places.size() * 68);
      std::vector<uint8_t> found(places.size());
      const ReadRequest request{0, places, records.data(), found.data()};
      store.read({&request, 1});
      for (size_t i = 0; i < places.size(); ++i) {
        if (found[i] == 0) {
          CHECK(least[i] == 0);
          continue;
        }
        uint64_t version = least[i];
        const uint64_t newest = before[places[i]];
        while (version <= newest) {
          if (std::memcmp(record_of(0, places[i], version, 68).data(), records.data() + i * 68, 68) == 0) break;
          ++version;
        }
        CHECK(version <= newest, "place %u is none of the versions %llu to %llu", places[i],
              static_cast<unsigned long long>(least[i]), static_cast<unsigned long long>(newest));
      }
    }
  };
  std::vector<std::thread> readers;
  for (uint64_t seed = 1; seed <= 2; ++seed) readers.emplace_back(read, seed);
  Random random(9);
  for (uint64_t version = 1; version <= 300; ++version) {
    const auto places = draw_places(random, 4000, 400);
    Batch batch(tables, version);
    batch.add(0, places);
    for (const uint32_t place : places) before[place] = version;
    store.write_back(batch.sections());
    for (const uint32_t place : places) after[place] = version;
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  CHECK(store.stats().log.compaction_bytes > 0);
}

/// A full disk while rows leave the buffer: said once, nothing lost, and all is well when there is room again.
void check_full_disk() {
  const Scratch scratch("row_store_test");
  const auto tables = some_tables();
  const auto plan = std::make_shared<FaultPlan>();
  RowStore store(RowLog::create(scratch / "log", tables, options_with(make_faulty_files(Backend::kThreads, 8, plan))),
                 256 << 10);
  Oracle oracle;
  Random random(4);
  FaultRule full;
  full.operation = "write";
  full.path_part = ".rows";
  full.first = 5;
  full.times = -1;
  full.error_number = ENOSPC;
  plan->add(full);
  int refused = 0;
  for (uint64_t version = 1; version <= 60; ++version) {
    const Batch batch = random_batch(random, tables, version, 1500);
    for (;;) {
      try {
        store.write_back(batch.sections());
        break;
      } catch (const IoError& error) {
        CHECK(error.error_number == ENOSPC);
        if (++refused == 3) plan->clear();
      }
    }
    batch.note(oracle);
  }
  CHECK(refused >= 3);
  check_all(store, oracle);
  const std::string commit = scratch / "commit";
  std::filesystem::create_directory(commit);
  store.commit(commit);
  LogOptions options = options_with(plain_files());
  options.read_only = true;
  RowStore committed(RowLog::open("", commit, tables, options), 0);
  check_all(committed, oracle);
}

/// Halves that hold one record or two.
void check_smallest_buffers() {
  const std::vector<TableLayout> tables{{"wide", 40, 5000, "identity", "{}"}};
  for (const int64_t buffer_bytes : {2 * (5000 + 44), 20000, 25000}) {
    const Scratch scratch("row_store_test");
    RowStore store(RowLog::create(scratch / "log", tables, options_with(plain_files())), buffer_bytes);
    Oracle oracle;
    Batch batch(tables, 1);
    batch.add(0, {0, 3, 4, 5, 30});
    store.write_back(batch.sections());
    batch.note(oracle);
    check_all(store, oracle);
  }
}

void check_second_store_refused() {
  const Scratch scratch("row_store_test");
  const auto log = RowLog::create(scratch / "log", some_tables(), options_with(plain_files()));
  try {
    RowLog::create(scratch / "log", some_tables(), options_with(plain_files()));
    CHECK(false);
  } catch (const IoError& error) {
    CHECK(error.error_number == EAGAIN, "%s", error.what());
  }
}

}  // namespace
}  // namespace hotrow::test

int main() {
  using namespace hotrow::test;
  check_model(0);
  check_model(1 << 20);
  check_model(64 << 10);
  check_smallest_buffers();
  check_threads();
  check_full_disk();
  check_second_store_refused();
  return 0;
}

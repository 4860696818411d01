// The row log against a map: runs, index, compaction, commits, growth.
#include "hotrow/storage/row_log.h"

#include <atomic>
#include <cerrno>
#include <thread>

#include "../storage/crc32c.h"
#include "../storage/page.h"
#include "../storage/row_index.h"
#include "check.h"
#include "hotrow/storage/faulty.h"
#include "row_oracle.h"

namespace hotrow::test {
namespace {

using namespace hotrow::storage;

std::vector<TableLayout> some_tables() {
  return {{"tiny", 900, 8, "identity", "{}"},
          {"rows", 5000, 260, "identity", "{\"dtype\": \"fp32\"}"},
          {"wide", 300, 5000, "0123abcd", "{}"},
          {"huge", 20, 70000, "identity", "{}"}};
}

LogOptions some_options() {
  LogOptions options;
  options.files = make_file_system(Backend::kThreads, 8);
  options.staging_bytes = 256 << 10;
  return options;
}

void check_crc() {
  CHECK(crc32c("123456789", 9) == 0xE3069283u);
  CHECK(crc32c_by_table("123456789", 9) == 0xE3069283u);
  Random random(1);
  std::vector<uint64_t> words(600);
  for (uint64_t& word : words) word = random.next();
  const char* bytes = reinterpret_cast<const char*>(words.data());
  for (int round = 0; round < 300; ++round) {
    const auto begin = static_cast<size_t>(random.below(100));
    const auto size = static_cast<size_t>(random.below(4600));
    const uint32_t whole = crc32c_by_table(bytes + begin, size);
    CHECK(crc32c(bytes + begin, size) == whole);
    CHECK(crc32c(bytes + begin + size / 3, size - size / 3, crc32c(bytes + begin, size / 3)) == whole);
  }
}

void check_shapes() {
  CHECK(page_shape(260).page_bytes == 4096 && page_shape(260).records == 15);
  CHECK(page_shape(68).page_bytes == 4096 && page_shape(68).records == 56);
  CHECK(page_shape(516).page_bytes == 8192 && page_shape(516).records == 15);
  CHECK(page_shape(5000).page_bytes == 65536 && page_shape(5000).records == 13);
  CHECK(page_shape(70000).page_bytes == 131072 && page_shape(70000).records == 1);
}

void check_tags() {
  Tags tags(1001);
  std::vector<int> expected(1001);
  Random random(2);
  for (int round = 0; round < 20000; ++round) {
    const auto place = static_cast<uint32_t>(random.below(1001));
    const int tag = static_cast<int>(random.below(64));
    tags.set(place, tag);
    expected[place] = tag;
  }
  for (uint32_t place = 0; place < 1001; ++place) CHECK(tags.get(place) == expected[place], "%u", place);
}

/// One span of pages: `gap` is the largest distance of neighbouring pages' first places.
void check_fences(Random& random, int64_t num_pages, int64_t gap, bool exact) {
  std::vector<uint32_t> first(static_cast<size_t>(num_pages));
  uint32_t place = static_cast<uint32_t>(random.below(1000));
  for (uint32_t& page : first) {
    page = place;
    place += 1 + static_cast<uint32_t>(random.below(gap));
  }
  const Fences fences(first);
  for (int round = 0; round < 500; ++round) {
    const auto page = static_cast<uint32_t>(random.below(num_pages));
    const int64_t end = page + 1 < num_pages ? first[page + 1] : first[page] + 5;
    const auto wanted = first[page] + static_cast<uint32_t>(random.below(end - first[page]));
    const Fences::Pages pages = fences.find(wanted);
    CHECK(pages.first <= page && page <= pages.last, "page %u of [%u, %u]", page, pages.first, pages.last);
    if (exact) CHECK(pages.first == pages.last);
  }
}

void check_all_fences() {
  Random random(3);
  for (const int64_t num_pages : {1, 2, 63, 64, 65, 1000}) {
    check_fences(random, num_pages, 15, true);
    check_fences(random, num_pages, 1000, true);
    check_fences(random, num_pages, 100000, false);
    check_fences(random, std::min<int64_t>(num_pages, 100), 20000000, false);
  }
}

/// Random writes, compactions, reads, commits and reopenings, each compared with the map.
class Story {
 public:
  Story(uint64_t seed, int64_t gap_bytes) : random_(seed), scratch_("row_log_test") {
    options_.gap_bytes = gap_bytes;
    std::filesystem::create_directory(scratch_ / "commits");
    log_ = RowLog::create(scratch_ / "log", tables_, options_);
  }

  void run(int steps) {
    for (int step = 0; step < steps; ++step) {
      const int64_t what = random_.below(100);
      if (what < 50) append();
      if (what >= 50 && what < 60) compact();
      if (what >= 60 && what < 85) read_some();
      if (what >= 85 && what < 91) commit();
      if (what >= 91 && what < 95) reopen();
      if (what >= 95) read_only();
    }
    check_all(*log_, oracle_);
    check_scan(*log_, oracle_);
    const LogStats stats = log_->stats();
    CHECK(stats.num_runs <= 63 && stats.live_bytes == live_bytes());
  }

 private:
  void append() {
    Batch batch(tables_, ++version_);
    for (size_t t = 0; t < tables_.size(); ++t) {
      if (random_.below(3) == 0) continue;
      const int64_t most = random_.below(4) == 0 ? tables_[t].num_rows : tables_[t].num_rows / 20 + 1;
      batch.add(static_cast<int64_t>(t), draw_places(random_, tables_[t].num_rows, random_.below(most)));
    }
    log_->append(batch.sections());
    batch.note(oracle_);
  }

  void compact() {
    while (log_->wants_compaction()) CHECK(log_->compact());
  }

  void read_some() {
    std::vector<std::vector<uint32_t>> places;
    for (const TableLayout& table : tables_) places.push_back(draw_places(random_, table.num_rows, random_.below(200)));
    check_rows(*log_, oracle_, places);
  }

  void commit() {
    commit_ = scratch_ / ("commits/" + std::to_string(++num_commits_));
    std::filesystem::create_directory(commit_);
    log_->commit(commit_);
    committed_ = oracle_;
  }

  void reopen() {
    if (commit_.empty()) return;
    log_.reset();
    if (random_.below(2) == 0) tables_[static_cast<size_t>(random_.below(3))].num_rows += 37;
    log_ = RowLog::open(scratch_ / "log", commit_, tables_, options_);
    oracle_ = committed_;
    check_all(*log_, oracle_);
  }

  void read_only() {
    if (commit_.empty()) return;
    LogOptions options = options_;
    options.read_only = true;
    const auto log = RowLog::open("", commit_, tables_, options);
    check_all(*log, committed_);
  }

  int64_t live_bytes() const {
    int64_t bytes = 0;
    for (const auto& [row, version] : oracle_) bytes += tables_[static_cast<size_t>(row.first)].record_bytes;
    return bytes;
  }

  Random random_;
  Scratch scratch_;
  std::vector<TableLayout> tables_ = some_tables();
  LogOptions options_ = some_options();
  std::unique_ptr<RowLog> log_;
  Oracle oracle_, committed_;
  uint64_t version_ = 0;
  int num_commits_ = 0;
  std::string commit_;
};

/// Everything is overwritten, more than once, while a compaction reads its victims: they die, others take their tags,
/// and what the compaction has read must not come back.
void check_victims_that_die(int times) {
  const Scratch scratch("row_log_test");
  const std::vector<TableLayout> tables{{"rows", 600, 260, "identity", "{}"}};
  const auto plan = std::make_shared<FaultPlan>();
  LogOptions options = some_options();
  options.files = make_faulty_files(Backend::kThreads, 8, plan);
  const auto log = RowLog::create(scratch / "log", tables, options);
  Oracle oracle;
  uint64_t version = 0;
  const auto append = [&](uint32_t step) {
    Batch batch(tables, ++version);
    std::vector<uint32_t> places;
    for (uint32_t place = 0; place < 600; place += step) places.push_back(place);
    batch.add(0, places);
    log->append(batch.sections());
    batch.note(oracle);
  };
  append(1);
  append(2);
  CHECK(log->wants_compaction());
  FaultRule slow;
  slow.operation = "read";
  slow.times = -1;
  slow.action = FaultAction::kDelay;
  slow.seconds = 0.3;
  plan->add(slow);
  std::thread compactor([&] { log->compact(); });
  while (plan->count("read", ".rows").calls == 0) std::this_thread::yield();
  for (int i = 0; i < times; ++i) append(1);
  compactor.join();
  plan->clear();
  check_all(*log, oracle);
  std::filesystem::create_directory(scratch / "commit");
  log->commit(scratch / "commit");
  options.read_only = true;
  const auto committed = RowLog::open("", scratch / "commit", tables, options);
  check_all(*committed, oracle);
  CHECK(committed->stats().num_runs == log->stats().num_runs);
}

}  // namespace
}  // namespace hotrow::test

int main() {
  using namespace hotrow::test;
  check_crc();
  check_shapes();
  check_tags();
  check_all_fences();
  for (int times = 1; times <= 4; ++times) check_victims_that_die(times);
  for (uint64_t seed = 1; seed <= 6; ++seed) Story(seed, seed % 2 == 0 ? 0 : 16384).run(120);
  return 0;
}

// Kills the store at random instants and checks after each that reopening gives exactly the last commit.
//
// A child writes rows whose content follows from (table, place, version) alone and commits now and then under a name
// that says up to which version; the parent kills it with SIGKILL, reopens the last commit, compares every row, and
// starts the next child from there. Arguments: number of kills (20), seed (1).
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "check.h"
#include "hotrow/storage/row_store.h"
#include "row_oracle.h"

namespace hotrow::test {
namespace {

using namespace hotrow::storage;

constexpr uint64_t kVersionsPerCommit = 6;

std::vector<TableLayout> some_tables() {
  return {{"small", 6000, 68, "identity", "{}"}, {"large", 2500, 260, "identity", "{}"}};
}

LogOptions some_options() {
  LogOptions options;
  options.files = make_file_system(Backend::kAuto, 8);
  options.staging_bytes = 128 << 10;
  return options;
}

/// What version `version` of the whole store writes: every process that runs it writes the same.
Batch batch_of(const std::vector<TableLayout>& tables, uint64_t version) {
  Batch batch(tables, version);
  Random random(version);
  for (size_t t = 0; t < tables.size(); ++t) {
    batch.add(static_cast<int64_t>(t), draw_places(random, tables[t].num_rows, 1 + random.below(700)));
  }
  return batch;
}

/// Commits are directories named by their version; one counts once it has its final name, as checkpoints do.
class Commits {
 public:
  explicit Commits(std::string directory) : directory_(std::move(directory)) {
    std::filesystem::create_directory(directory_);
  }

  std::string path(uint64_t version) const { return directory_ + "/" + std::to_string(version); }

  /// The newest commit's version; 0 if there is none. Removes what a killed process left half made.
  uint64_t newest() const {
    uint64_t version = 0;
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      const std::string name = entry.path().filename();
      if (name.starts_with("new-")) {
        std::filesystem::remove_all(entry.path());
      } else {
        version = std::max<uint64_t>(version, std::stoull(name));
      }
    }
    return version;
  }

  void make(RowStore& store, uint64_t version) const {
    const std::string temporary = directory_ + "/new-" + std::to_string(version);
    std::filesystem::create_directory(temporary);
    store.commit(temporary);
    CHECK(rename(temporary.c_str(), path(version).c_str()) == 0);
    const int descriptor = open(directory_.c_str(), O_RDONLY | O_DIRECTORY);
    CHECK(descriptor >= 0 && fsync(descriptor) == 0);
    close(descriptor);
    for (uint64_t old = version - 1; old + 3 * kVersionsPerCommit > version && old > 0; --old) {
      if (old + kVersionsPerCommit < version) std::filesystem::remove_all(path(old));
    }
  }

 private:
  std::string directory_;
};

std::unique_ptr<RowStore> open_store(const std::string& log, const Commits& commits, uint64_t version) {
  auto opened = version == 0 ? RowLog::create(log, some_tables(), some_options())
                             : RowLog::open(log, commits.path(version), some_tables(), some_options());
  return std::make_unique<RowStore>(std::move(opened), 256 << 10);
}

[[noreturn]] void write_for_ever(const std::string& log, const Commits& commits) {
  uint64_t version = commits.newest();
  const std::unique_ptr<RowStore> store = open_store(log, commits, version);
  for (;;) {
    store->write_back(batch_of(store->tables(), ++version).sections());
    if (version % kVersionsPerCommit == 0) commits.make(*store, version);
  }
}

void kill_one(const std::string& log, const Commits& commits, Random& random, uint64_t most_microseconds) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) write_for_ever(log, commits);
  std::this_thread::sleep_for(std::chrono::microseconds(random.below(most_microseconds)));
  kill(child, SIGKILL);
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %d", status);
}

void check_after_kill(const std::string& log, const Commits& commits, uint64_t version, Oracle& oracle,
                      uint64_t& noted) {
  if (version == 0) {
    std::filesystem::remove_all(log);
    return;
  }
  const std::vector<TableLayout> tables = some_tables();
  while (noted < version) batch_of(tables, ++noted).note(oracle);
  const std::unique_ptr<RowStore> store = open_store(log, commits, version);
  check_all(*store, oracle);
}

void torture(int kills, uint64_t seed) {
  const Scratch scratch("torture");
  const Commits commits(scratch / "commits");
  Random random(seed);
  Oracle oracle;
  uint64_t noted = 0, previous = 0, most_microseconds = 400000;
  for (int i = 0; i < kills; ++i) {
    kill_one(scratch / "log", commits, random, most_microseconds);
    const uint64_t version = commits.newest();
    CHECK(version >= previous && version % kVersionsPerCommit == 0);
    check_after_kill(scratch / "log", commits, version, oracle, noted);
    previous = version;
    // A busy machine or a sanitizer makes children slow: they live longer until one of them commits.
    if (version == 0) most_microseconds = std::min<uint64_t>(2 * most_microseconds, 10'000'000);
  }
  CHECK(previous > 0, "no child lived long enough to commit");
  std::printf("%d kills, version %llu: every reopening gave exactly the last commit\n", kills,
              static_cast<unsigned long long>(previous));
}

}  // namespace
}  // namespace hotrow::test

int main(int argc, char** argv) {
  hotrow::test::torture(argc > 1 ? std::atoi(argv[1]) : 20, argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  return 0;
}

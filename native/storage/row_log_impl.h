// The state of a row log, and who guards what.
#pragma once

#include <array>
#include <atomic>
#include <bitset>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <span>
#include <string>
#include <vector>

#include "hotrow/storage/row_log.h"
#include "row_index.h"
#include "run_file.h"

namespace hotrow::storage {

using RunPointer = std::shared_ptr<Run>;
using TagSet = std::bitset<kMaxRuns + 1>;

struct Candidate;
struct CompactionLimits;

/// Buffers that readers take and give back; a few are kept.
class StagingPool {
 public:
  explicit StagingPool(int64_t buffer_bytes) : buffer_bytes_(buffer_bytes) {}
  std::unique_ptr<AlignedBuffer> take();
  void give_back(std::unique_ptr<AlignedBuffer> buffer);
  int64_t buffer_bytes() const { return buffer_bytes_; }
  int64_t memory_bytes() const;

 private:
  static constexpr size_t kKept = 2;
  const int64_t buffer_bytes_;
  mutable std::mutex mutex_;
  int64_t taken_ = 0;
  std::vector<std::unique_ptr<AlignedBuffer>> free_;
};

struct ReadCounters {
  std::atomic<int64_t> rows{0}, pages{0}, requests{0}, bytes{0};
};

/// Order of locks: commit, compaction, append, index, retired. An append or a compaction draws its sequence number
/// while no append is under way: whatever is older than a compaction is in the index when it starts, so that the run of
/// the highest number has the newest copy of every row, in memory and when footers are replayed.
class RowLog::Impl {
 public:
  Impl(std::string directory, std::vector<TableLayout> tables, LogOptions options);

  void start_empty();
  void start_from(const std::string& commit);

  void read(std::span<const ReadRequest> requests);
  void append(std::span<const AppendSection> sections);
  void append(std::span<const RecordRef> records);
  int64_t commit(const std::string& directory);
  bool wants_compaction() const;
  bool must_compact() const;
  bool read_only() const { return options_.read_only; }
  bool compact(bool for_room);
  LogStats stats() const;
  int64_t memory_bytes() const;
  void scan(int64_t table, const std::function<void(std::span<const uint32_t>, const std::byte*)>& piece);

  const std::vector<TableLayout>& tables() const { return tables_; }

 private:
  friend class RowReader;
  friend class Compaction;

  // row_log.cc
  std::string runs_directory() const { return directory_ + "/runs"; }
  std::string run_path(uint64_t sequence) const { return runs_directory() + "/" + run_name(sequence); }
  void check_writable() const;
  void check_table(int64_t table) const;
  void check_sorted(int64_t table, std::span<const uint32_t> places) const;
  void append_run(const std::vector<uint32_t>& tables, const std::function<void(RunWriter&)>& feed);
  void install(const RunPointer& run, const RunWriter& writer, const TagSet* only_from);
  int free_slot() const;  // 0: none
  int num_live() const;
  void make_room();
  uint64_t draw_sequence();
  /// Lets the tags of `places` name the run in `slot`; with only_from, those alone that name one of these now.
  /// The index is held exclusively.
  void point_to(int slot, RunSection& section, std::span<const uint32_t> places, const TagSet* only_from);
  void drop_dead_runs();  // index held exclusively
  void reap();
  void reap_quietly();
  std::vector<Candidate> candidates() const;  // index held
  CompactionLimits limits() const;            // index held
  int64_t with_garbage(int64_t live_bytes, double share) const;
  void load(const std::string& path, const RunEntry& entry);
  void clear_directory();

  const std::string directory_;
  const std::vector<TableLayout> tables_;
  const LogOptions options_;
  std::vector<PageShape> shapes_;
  std::unique_ptr<Lock> lock_;
  StagingPool staging_;

  std::mutex commit_mutex_, compact_mutex_, append_mutex_;
  uint64_t next_sequence_ = 1;         // append_mutex_
  std::set<uint64_t> last_committed_;  // commit_mutex_

  mutable std::shared_mutex index_mutex_;
  std::vector<Tags> tags_;
  std::array<RunPointer, kMaxRuns + 1> runs_;  // by tag; 0 is none
  std::vector<int64_t> live_rows_;             // per table

  mutable std::mutex retired_mutex_;
  std::vector<RunPointer> retired_;  // files to remove once nobody reads them

  ReadCounters read_;
  std::atomic<int64_t> rows_appended_{0}, append_bytes_{0}, compaction_bytes_{0};
  std::atomic<int64_t> pending_bytes_{0};  // that a compaction writes before its victims go
};

}  // namespace hotrow::storage

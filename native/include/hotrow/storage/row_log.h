// Rows and their optimizer state on SSD: immutable sorted runs, newest wins. Format: docs/row-format.md.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hotrow/storage/file.h"

namespace hotrow::storage {

/// One table as the log keeps it. A record is one row's bytes followed by its state, record_bytes in all.
struct TableLayout {
  std::string name;
  int64_t num_rows = 0;
  int64_t record_bytes = 0;
  std::string order_id;
  std::string record;  // JSON: what the bytes of a record are; compared when a log is opened
};

/// Newest records of one table. places: ascending, each once.
struct ReadRequest {
  int64_t table = 0;
  std::span<const uint32_t> places;
  std::byte* records = nullptr;  // [places.size(), record_bytes]
  uint8_t* found = nullptr;      // 0 where a place was never written; its record is left as it was
  bool only_missing = false;     // leaves out the places that are marked as found already
};

/// Records to write. places: ascending, each once.
struct AppendSection {
  int64_t table = 0;
  std::span<const uint32_t> places;
  const std::byte* records = nullptr;
};

/// One record to write, wherever it lies.
struct RecordRef {
  uint32_t table = 0;
  uint32_t place = 0;
  const std::byte* record = nullptr;
};

struct LogStats {
  int64_t live_bytes = 0, disk_bytes = 0, num_runs = 0, index_bytes = 0;
  int64_t rows_read = 0, pages_read = 0, read_requests = 0, read_bytes = 0;  // since opened
  int64_t rows_appended = 0, append_bytes = 0, compaction_bytes = 0;
};

struct LogOptions {
  std::shared_ptr<FileSystem> files;
  bool read_only = false;
  double max_garbage = 0.5;         // of live bytes, before compaction is wanted
  int64_t gap_bytes = 0;            // neighbouring reads closer than this become one (from the measured read curve)
  int64_t staging_bytes = 8 << 20;  // read at a time
  int64_t writer_bytes = 4 << 20;   // written at a time, by each of an append and a compaction
};

/// Thread-safe: any number of readers beside one appender, one compactor and one committer.
class RowLog {
 public:
  class Impl;  // of the implementation
  /// A new, empty log in `directory` (which must have no log). Holds a lock on it: a second process is refused.
  static std::unique_ptr<RowLog> create(const std::string& directory, std::vector<TableLayout> tables,
                                        LogOptions options);

  /// The log as committed in `commit`: its runs are linked into `directory`, whatever else lies there is removed.
  /// read_only: `directory` is not used, runs are read where they are. Throws FormatFault naming what differs from
  /// `tables` (a table may have grown: more rows than committed).
  static std::unique_ptr<RowLog> open(const std::string& directory, const std::string& commit,
                                      std::vector<TableLayout> tables, LogOptions options);
  ~RowLog();

  void read(std::span<const ReadRequest> requests);
  /// Writes one run, durable only after commit. Sections in ascending order of table. Throws std::invalid_argument
  /// before anything is written, IoError leaving the log as it was.
  void append(std::span<const AppendSection> sections);
  void append(std::span<const RecordRef> records);  // ascending by (table, place), each once

  /// Makes all that was appended durable and names it in `commit`, an existing directory: links and rows.json, synced;
  /// the caller renames. Returns the bytes that are new since the last commit.
  int64_t commit(const std::string& commit);

  bool read_only() const;
  bool wants_compaction() const;
  bool must_compact() const;  // garbage is at its bound, whether compaction can free some or not
  bool compact();             // one compaction; false if nothing was worth it
  LogStats stats() const;
  const std::vector<TableLayout>& tables() const;
  int64_t memory_bytes() const;  // index and staging that is kept

  /// Every live record of a table in ascending order of place, in pieces: for exports, bulk loads, verification.
  void scan(int64_t table, const std::function<void(std::span<const uint32_t>, const std::byte*)>& piece);

 private:
  explicit RowLog(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hotrow::storage

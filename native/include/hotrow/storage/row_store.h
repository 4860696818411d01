// The log with what runs in the background of it: a buffer of rows on their way out, and compaction.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "hotrow/storage/row_log.h"

namespace hotrow::storage {

struct StoreStats {
  LogStats log;
  int64_t buffer_bytes = 0, rows_from_buffer = 0, write_back_waits = 0;
};

/// Thread-safe. What fails in the background is thrown by the next call, once; what could not be written stays in the
/// buffer and is tried again after that.
class RowStore {
 public:
  /// buffer_bytes: rows on their way out, in two halves: one fills while the other is being written. 0: every
  /// write_back is a run of its own, written before it returns. A log that was opened for reading only needs none.
  /// Throws std::invalid_argument if a half cannot hold the largest record.
  RowStore(std::unique_ptr<RowLog> log, int64_t buffer_bytes);
  ~RowStore();  // stops the background; what is not committed is lost

  /// Newest records, from the buffer or the log. Rethrows what went wrong in the background.
  void read(std::span<const ReadRequest> requests);

  /// Takes records over (copies them); waits only while both halves are full. If it throws IoError, some may have been
  /// taken over: calling again with the same records is right.
  void write_back(std::span<const AppendSection> sections);

  /// Everything taken over so far, durable and named in `commit`. See RowLog::commit.
  int64_t commit(const std::string& commit);

  /// Every record taken over so far. See RowLog::scan.
  void scan(int64_t table, const std::function<void(std::span<const uint32_t>, const std::byte*)>& piece);

  /// Waits until nothing is left in the buffer and no compaction is wanted.
  void settle();

  StoreStats stats() const;
  int64_t memory_bytes() const;  // index, buffer, staging
  const std::vector<TableLayout>& tables() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hotrow::storage

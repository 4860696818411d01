// The log with what runs in the background of it: a buffer of rows on their way out, and compaction.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "hotrow/storage/row_log.h"

namespace hotrow::storage {

struct StoreStats {
  LogStats log;
  int64_t buffer_bytes = 0, rows_from_buffer = 0, write_back_waits = 0;
};

class RowStore {
 public:
  /// buffer_bytes: rows on their way out, in two halves: one fills while the other is being written. 0: every
  /// write_back is a run of its own, written before it returns.
  RowStore(std::unique_ptr<RowLog> log, int64_t buffer_bytes);
  ~RowStore();  // stops the background; what is not committed is lost

  /// Newest records, from the buffer or the log. Rethrows what went wrong in the background.
  void read(std::span<const ReadRequest> requests);

  /// Takes records over (copies them); waits only while both halves are full.
  void write_back(std::span<const AppendSection> sections);

  /// Everything taken over so far, durable and named in `commit`. See RowLog::commit.
  int64_t commit(const std::string& commit);

  StoreStats stats() const;
  int64_t memory_bytes() const;  // index, buffer, staging

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hotrow::storage

// One half of the write buffer: records, found again by (table, place), within a fixed number of bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "hotrow/storage/row_log.h"

namespace hotrow::storage {

class WriteBuffer {
 public:
  /// Throws std::invalid_argument if `bytes` cannot hold one record of every table's size.
  WriteBuffer(const std::vector<TableLayout>& tables, int64_t bytes);

  /// Takes a record over, in place of an older one of the same row; false if there is no room.
  bool put(uint32_t table, uint32_t place, const std::byte* record);

  /// The record of a row, or null.
  const std::byte* find(uint32_t table, uint32_t place) const;

  /// All records, ascending by (table, place).
  std::vector<RecordRef> sorted() const;

  void clear();
  bool empty() const { return entries_.empty(); }

 private:
  size_t slot_of(uint32_t table, uint32_t place) const;

  std::vector<int64_t> record_bytes_;
  size_t max_entries_ = 0;
  std::vector<uint32_t> slots_;  // of a power of two; 1 + index into entries_, 0 if free
  std::vector<RecordRef> entries_;
  int64_t capacity_ = 0, used_ = 0;  // of records and entries
  std::unique_ptr<std::byte[]> records_;
};

}  // namespace hotrow::storage

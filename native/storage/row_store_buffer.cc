#include "row_store_buffer.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <tuple>

namespace hotrow::storage {
namespace {

constexpr int64_t kEntryBytes = 2 * static_cast<int64_t>(sizeof(RecordRef));  // the entry and its sorted copy
constexpr int64_t kSlotBytes = 3 * static_cast<int64_t>(sizeof(uint32_t));    // 1.5 to 3 slots per record

uint64_t hash(uint32_t table, uint32_t place) {
  uint64_t x = (uint64_t{table} << 32 | place) * 0x9E3779B97F4A7C15u;
  return (x ^ (x >> 32)) * 0xD6E8FEB86659FD93u;
}

}  // namespace

WriteBuffer::WriteBuffer(const std::vector<TableLayout>& tables, int64_t bytes) {
  for (const TableLayout& table : tables) record_bytes_.push_back(table.record_bytes);
  const auto [smallest, largest] = std::minmax_element(record_bytes_.begin(), record_bytes_.end());
  if (bytes < *largest + kEntryBytes + kSlotBytes) {
    throw std::invalid_argument("a write buffer of 2 x " + std::to_string(bytes) + " bytes cannot hold a record of " +
                                std::to_string(*largest) + " bytes; give it more");
  }
  max_entries_ = static_cast<size_t>(bytes / (*smallest + kEntryBytes + kSlotBytes));
  slots_.resize(std::bit_ceil(max_entries_ + max_entries_ / 2 + 1));  // one is always free: searches end there
  capacity_ = std::max(bytes - static_cast<int64_t>(slots_.size() * sizeof(uint32_t)), *largest + kEntryBytes);
  entries_.reserve(max_entries_);
  records_.reset(new std::byte[static_cast<size_t>(capacity_)]);  // memory is taken as it is touched
}

size_t WriteBuffer::slot_of(uint32_t table, uint32_t place) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = (hash(table, place) >> 32) & mask;
  while (slots_[slot] != 0) {
    const RecordRef& entry = entries_[slots_[slot] - 1];
    if (entry.table == table && entry.place == place) break;
    slot = (slot + 1) & mask;
  }
  return slot;
}

bool WriteBuffer::put(uint32_t table, uint32_t place, const std::byte* record) {
  const int64_t bytes = record_bytes_[table];
  const size_t slot = slot_of(table, place);
  if (slots_[slot] != 0) {
    std::byte* older = const_cast<std::byte*>(entries_[slots_[slot] - 1].record);
    std::memcpy(older, record, static_cast<size_t>(bytes));
    return true;
  }
  const auto taken = used_ + static_cast<int64_t>(entries_.size()) * kEntryBytes;
  if (entries_.size() == max_entries_ || taken + bytes + kEntryBytes > capacity_) return false;
  std::byte* to = records_.get() + used_;
  std::memcpy(to, record, static_cast<size_t>(bytes));
  entries_.push_back({table, place, to});
  slots_[slot] = static_cast<uint32_t>(entries_.size());
  used_ += bytes;
  return true;
}

const std::byte* WriteBuffer::find(uint32_t table, uint32_t place) const {
  const uint32_t entry = slots_[slot_of(table, place)];
  return entry == 0 ? nullptr : entries_[entry - 1].record;
}

std::vector<RecordRef> WriteBuffer::sorted() const {
  std::vector<RecordRef> records = entries_;
  std::sort(records.begin(), records.end(), [](const RecordRef& a, const RecordRef& b) {
    return std::tie(a.table, a.place) < std::tie(b.table, b.place);
  });
  return records;
}

void WriteBuffer::clear() {
  std::fill(slots_.begin(), slots_.end(), 0);
  entries_.clear();
  used_ = 0;
}

}  // namespace hotrow::storage

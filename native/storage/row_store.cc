#include "hotrow/storage/row_store.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>

#include "row_store_buffer.h"

namespace hotrow::storage {

/// One mutex guards the buffer and what the threads tell each other; it is not held while the log reads or writes.
class RowStore::Impl {
 public:
  Impl(std::unique_ptr<RowLog> log, int64_t buffer_bytes);
  ~Impl();

  void read(std::span<const ReadRequest> requests);
  void write_back(std::span<const AppendSection> sections);
  int64_t commit(const std::string& directory);
  void scan(int64_t table, const std::function<void(std::span<const uint32_t>, const std::byte*)>& piece);
  void settle();
  StoreStats stats() const;
  int64_t memory_bytes() const { return log_->memory_bytes() + buffer_bytes_; }
  const std::vector<TableLayout>& tables() const { return log_->tables(); }

 private:
  using Lock = std::unique_lock<std::mutex>;

  void check(std::span<const AppendSection> sections) const;
  void rethrow(Lock&);
  void put(Lock& lock, uint32_t table, uint32_t place, const std::byte* record);
  void hand_over(Lock& lock);
  void wait_written(Lock& lock);
  void flush(Lock& lock);
  bool read_from_buffer(const ReadRequest& request);

  void write_loop();
  void write_half(Lock& lock);
  void compact_loop();

  const std::unique_ptr<RowLog> log_;
  const int64_t buffer_bytes_;
  std::unique_ptr<WriteBuffer> filling_, leaving_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool leaving_full_ = false;  // the writer has work
  bool compact_ = false;       // the compactor has work, perhaps
  bool stop_ = false;
  std::exception_ptr error_;
  int64_t rows_from_buffer_ = 0, write_back_waits_ = 0;
  std::thread writer_, compactor_;
};

RowStore::Impl::Impl(std::unique_ptr<RowLog> log, int64_t buffer_bytes)
    : log_(std::move(log)), buffer_bytes_(log_->read_only() ? 0 : buffer_bytes) {
  if (log_->read_only()) return;
  if (buffer_bytes_ != 0) {
    filling_ = std::make_unique<WriteBuffer>(log_->tables(), buffer_bytes_ / 2);
    leaving_ = std::make_unique<WriteBuffer>(log_->tables(), buffer_bytes_ / 2);
    writer_ = std::thread([this] { write_loop(); });
  }
  compactor_ = std::thread([this] { compact_loop(); });
}

RowStore::Impl::~Impl() {
  {
    const Lock lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (writer_.joinable()) writer_.join();
  if (compactor_.joinable()) compactor_.join();
}

/// Throws what went wrong in the background, once; the background tries again from then on.
void RowStore::Impl::rethrow(Lock&) {
  if (!error_) return;
  const std::exception_ptr error = std::exchange(error_, nullptr);
  changed_.notify_all();
  std::rethrow_exception(error);
}

void RowStore::Impl::read(std::span<const ReadRequest> requests) {
  std::vector<ReadRequest> rest(requests.begin(), requests.end());
  {
    Lock lock(mutex_);
    rethrow(lock);
    // What leaves the buffer after this look is in the log before the log is asked.
    for (ReadRequest& request : rest) request.only_missing = read_from_buffer(request) || request.only_missing;
  }
  log_->read(rest);
}

bool RowStore::Impl::read_from_buffer(const ReadRequest& request) {
  if (!filling_ || (filling_->empty() && !leaving_full_)) return false;
  if (request.table < 0 || request.table >= static_cast<int64_t>(tables().size())) return false;  // the log refuses it
  const auto table = static_cast<uint32_t>(request.table);
  const auto bytes = static_cast<size_t>(tables()[table].record_bytes);
  for (size_t i = 0; i < request.places.size(); ++i) {
    if (request.only_missing && request.found[i] != 0) continue;
    const std::byte* record = filling_->find(table, request.places[i]);
    if (record == nullptr && leaving_full_) record = leaving_->find(table, request.places[i]);
    request.found[i] = record != nullptr;
    if (record == nullptr) continue;
    std::memcpy(request.records + i * bytes, record, bytes);
    ++rows_from_buffer_;
  }
  return true;
}

void RowStore::Impl::check(std::span<const AppendSection> sections) const {
  for (const AppendSection& section : sections) {
    if (section.table < 0 || section.table >= static_cast<int64_t>(tables().size())) {
      throw std::invalid_argument("table " + std::to_string(section.table) + " of " + std::to_string(tables().size()));
    }
    const TableLayout& table = tables()[static_cast<size_t>(section.table)];
    for (const uint32_t place : section.places) {
      if (place < table.num_rows) continue;
      throw std::invalid_argument("place " + std::to_string(place) + " of table '" + table.name + "', which has " +
                                  std::to_string(table.num_rows) + " rows");
    }
  }
}

void RowStore::Impl::write_back(std::span<const AppendSection> sections) {
  if (log_->read_only()) throw std::logic_error("the row store was opened for reading only");
  check(sections);
  Lock lock(mutex_);
  rethrow(lock);
  if (!filling_) {
    lock.unlock();
    log_->append(sections);
    lock.lock();
    compact_ = true;
    changed_.notify_all();
    return;
  }
  for (const AppendSection& section : sections) {
    const auto table = static_cast<uint32_t>(section.table);
    const std::byte* record = section.records;
    for (const uint32_t place : section.places) {
      put(lock, table, place, record);
      record += tables()[table].record_bytes;
    }
  }
}

void RowStore::Impl::put(Lock& lock, uint32_t table, uint32_t place, const std::byte* record) {
  while (!filling_->put(table, place, record)) {
    if (leaving_full_) ++write_back_waits_;
    wait_written(lock);
    if (!filling_->empty()) hand_over(lock);
  }
}

/// The half that was filled goes to the writer, which has none.
void RowStore::Impl::hand_over(Lock&) {
  std::swap(filling_, leaving_);
  leaving_full_ = true;
  changed_.notify_all();
}

void RowStore::Impl::wait_written(Lock& lock) {
  while (leaving_full_) {
    rethrow(lock);
    changed_.wait(lock);
  }
}

void RowStore::Impl::flush(Lock& lock) {
  if (!filling_) return;
  wait_written(lock);
  if (filling_->empty()) return;
  hand_over(lock);
  wait_written(lock);
}

int64_t RowStore::Impl::commit(const std::string& directory) {
  {
    Lock lock(mutex_);
    rethrow(lock);
    flush(lock);
  }
  const int64_t bytes = log_->commit(directory);
  const Lock lock(mutex_);
  compact_ = true;
  changed_.notify_all();
  return bytes;
}

void RowStore::Impl::scan(int64_t table,
                          const std::function<void(std::span<const uint32_t>, const std::byte*)>& piece) {
  {
    Lock lock(mutex_);
    rethrow(lock);
    flush(lock);
  }
  log_->scan(table, piece);
}

void RowStore::Impl::settle() {
  Lock lock(mutex_);
  rethrow(lock);
  flush(lock);
  while (compact_) {
    changed_.wait(lock);
    rethrow(lock);
  }
}

void RowStore::Impl::write_loop() {
  Lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || (leaving_full_ && !error_); });
    if (stop_) return;
    write_half(lock);
    changed_.notify_all();
  }
}

void RowStore::Impl::write_half(Lock& lock) {
  lock.unlock();
  try {
    log_->append(leaving_->sorted());
    lock.lock();
  } catch (...) {  // to be thrown where someone can handle it
    lock.lock();
    error_ = std::current_exception();
    return;
  }
  leaving_->clear();
  leaving_full_ = false;
  compact_ = true;
  changed_.notify_all();
  // Garbage is bounded: where compaction falls behind, writing waits for it.
  while (compact_ && !stop_ && !error_ && log_->must_compact()) changed_.wait(lock);
}

void RowStore::Impl::compact_loop() {
  Lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || (compact_ && !error_); });
    if (stop_) return;
    lock.unlock();
    std::exception_ptr error;
    bool more = false;
    try {
      more = log_->wants_compaction() && log_->compact();
    } catch (...) {  // to be thrown where someone can handle it
      error = std::current_exception();
    }
    lock.lock();
    if (error) error_ = error;
    compact_ = more;
    changed_.notify_all();
  }
}

StoreStats RowStore::Impl::stats() const {
  StoreStats stats;
  stats.log = log_->stats();
  const Lock lock(mutex_);
  stats.buffer_bytes = buffer_bytes_;
  stats.rows_from_buffer = rows_from_buffer_;
  stats.write_back_waits = write_back_waits_;
  return stats;
}

RowStore::RowStore(std::unique_ptr<RowLog> log, int64_t buffer_bytes)
    : impl_(std::make_unique<Impl>(std::move(log), buffer_bytes)) {}
RowStore::~RowStore() = default;

void RowStore::read(std::span<const ReadRequest> requests) { impl_->read(requests); }
void RowStore::write_back(std::span<const AppendSection> sections) { impl_->write_back(sections); }
int64_t RowStore::commit(const std::string& commit) { return impl_->commit(commit); }
void RowStore::scan(int64_t table, const std::function<void(std::span<const uint32_t>, const std::byte*)>& piece) {
  impl_->scan(table, piece);
}
void RowStore::settle() { impl_->settle(); }
StoreStats RowStore::stats() const { return impl_->stats(); }
int64_t RowStore::memory_bytes() const { return impl_->memory_bytes(); }
const std::vector<TableLayout>& RowStore::tables() const { return impl_->tables(); }

}  // namespace hotrow::storage

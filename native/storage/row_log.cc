#include "hotrow/storage/row_log.h"

#include <algorithm>
#include <cerrno>
#include <stdexcept>

#include "commit.h"
#include "row_log_impl.h"

namespace hotrow::storage {
namespace {

int64_t largest_page(const std::vector<TableLayout>& tables) {
  int64_t bytes = kBlockBytes;
  for (const TableLayout& table : tables) bytes = std::max(bytes, page_shape(table.record_bytes).page_bytes);
  return bytes;
}

void check_layout(const std::vector<TableLayout>& tables) {
  if (tables.empty()) throw std::invalid_argument("a row log needs at least one table");
  for (const TableLayout& table : tables) {
    if (table.num_rows < 1 || table.num_rows > int64_t{UINT32_MAX}) {
      throw std::invalid_argument("table '" + table.name + "' has " + std::to_string(table.num_rows) +
                                  " rows; a row log takes 1 to 2^32 - 1");
    }
    if (table.record_bytes < 1 || table.record_bytes > kMaxRecordBytes) {
      throw std::invalid_argument("table '" + table.name + "' has records of " + std::to_string(table.record_bytes) +
                                  " bytes; a row log takes 1 to " + std::to_string(kMaxRecordBytes));
    }
  }
}

}  // namespace

RowLog::Impl::Impl(std::string directory, std::vector<TableLayout> tables, LogOptions options)
    : directory_(std::move(directory)),
      tables_((check_layout(tables), std::move(tables))),
      options_(std::move(options)),
      staging_(std::max(options_.staging_bytes, largest_page(tables_))),
      live_rows_(tables_.size()) {
  if (!options_.files) throw std::invalid_argument("a row log needs a file system");
  for (const TableLayout& table : tables_) {
    shapes_.push_back(page_shape(table.record_bytes));
    tags_.emplace_back(table.num_rows);
  }
  if (options_.read_only) return;
  options_.files->make_directory(runs_directory());
  lock_ = options_.files->lock(directory_ + "/lock");
}

void RowLog::Impl::start_empty() {
  if (options_.files->list(runs_directory()).empty()) return;
  throw IoError(runs_directory(), "create", -1, EEXIST,
                "it holds runs of rows already; open a checkpoint of them or remove the directory");
}

void RowLog::Impl::clear_directory() {
  for (const std::string& name : options_.files->list(runs_directory())) {
    options_.files->remove(runs_directory() + "/" + name);
  }
}

void RowLog::Impl::start_from(const std::string& commit) {
  const CommitContent content = read_commit(*options_.files, commit);
  check_tables(content, tables_, commit + "/" + kCommitFile);
  if (content.runs.size() > static_cast<size_t>(kMaxRuns)) {
    throw FormatFault(commit + "/" + kCommitFile + ": names " + std::to_string(content.runs.size()) + " runs of " +
                      std::to_string(kMaxRuns) + " that may be live");
  }
  if (!options_.read_only) clear_directory();
  for (const RunEntry& entry : content.runs) {
    const std::string from = commit + "/" + run_name(entry.sequence);
    if (!options_.files->exists(from)) throw FormatFault(from + ": is missing, the checkpoint names it");
    if (!options_.read_only) options_.files->link(from, run_path(entry.sequence));
    load(options_.read_only ? from : run_path(entry.sequence), entry);
    last_committed_.insert(entry.sequence);
  }
  next_sequence_ = content.next_sequence;
  drop_dead_runs();
  reap();
}

void RowLog::Impl::load(const std::string& path, const RunEntry& entry) {
  const int slot = free_slot();
  // The run's sections are not all there yet while its places come: what is live is counted in a stand-in.
  RunPointer placeholder = std::make_shared<Run>();
  for (uint32_t table = 0; table < tables_.size(); ++table) placeholder->sections.emplace_back().table = table;
  runs_[static_cast<size_t>(slot)] = placeholder;
  const auto sink = [&](const RunSection& section, std::span<const uint32_t> places) {
    point_to(slot, placeholder->sections[section.table], places, nullptr);
  };
  RunPointer run = load_run(*options_.files, path, entry, tables_, sink);
  for (RunSection& section : run->sections) section.live = placeholder->sections[section.table].live;
  runs_[static_cast<size_t>(slot)] = std::move(run);
}

void RowLog::Impl::check_writable() const {
  if (options_.read_only) throw std::logic_error("the row log was opened for reading only");
}

void RowLog::Impl::check_table(int64_t table) const {
  if (table >= 0 && table < static_cast<int64_t>(tables_.size())) return;
  throw std::invalid_argument("table " + std::to_string(table) + " of " + std::to_string(tables_.size()));
}

void RowLog::Impl::check_sorted(int64_t table, std::span<const uint32_t> places) const {
  check_table(table);
  const TableLayout& layout = tables_[static_cast<size_t>(table)];
  for (size_t i = 1; i < places.size(); ++i) {
    if (places[i - 1] >= places[i]) {
      throw std::invalid_argument("places of table '" + layout.name + "' are not in ascending order at position " +
                                  std::to_string(i));
    }
  }
  if (!places.empty() && places.back() >= layout.num_rows) {
    throw std::invalid_argument("place " + std::to_string(places.back()) + " of table '" + layout.name +
                                "', which has " + std::to_string(layout.num_rows) + " rows");
  }
}

int RowLog::Impl::free_slot() const {
  for (int slot = 1; slot <= kMaxRuns; ++slot) {
    if (!runs_[static_cast<size_t>(slot)]) return slot;
  }
  return 0;
}

int RowLog::Impl::num_live() const {
  return static_cast<int>(std::count_if(runs_.begin(), runs_.end(), [](const RunPointer& run) { return !!run; }));
}

LogStats RowLog::Impl::stats() const {
  LogStats stats;
  stats.rows_read = read_.rows;
  stats.pages_read = read_.pages;
  stats.read_requests = read_.requests;
  stats.read_bytes = read_.bytes;
  stats.rows_appended = rows_appended_;
  stats.append_bytes = append_bytes_;
  stats.compaction_bytes = compaction_bytes_;
  {
    const std::shared_lock index(index_mutex_);
    for (const Tags& tags : tags_) stats.index_bytes += tags.memory_bytes();
    for (size_t table = 0; table < tables_.size(); ++table) {
      stats.live_bytes += live_rows_[table] * tables_[table].record_bytes;
    }
    for (const RunPointer& run : runs_) {
      if (!run) continue;
      ++stats.num_runs;
      stats.disk_bytes += run->bytes;
      stats.index_bytes += run->memory_bytes();
    }
  }
  const std::lock_guard retired(retired_mutex_);
  for (const RunPointer& run : retired_) stats.disk_bytes += run->bytes;
  return stats;
}

int64_t RowLog::Impl::memory_bytes() const {
  const int64_t work =
      options_.read_only ? 0 : 2 * options_.writer_bytes + staging_.buffer_bytes();  // an append, a compaction
  return stats().index_bytes + staging_.memory_bytes() + work;
}

RowLog::RowLog(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RowLog::~RowLog() = default;

std::unique_ptr<RowLog> RowLog::create(const std::string& directory, std::vector<TableLayout> tables,
                                       LogOptions options) {
  auto impl = std::make_unique<Impl>(directory, std::move(tables), std::move(options));
  impl->start_empty();
  return std::unique_ptr<RowLog>(new RowLog(std::move(impl)));
}

std::unique_ptr<RowLog> RowLog::open(const std::string& directory, const std::string& commit,
                                     std::vector<TableLayout> tables, LogOptions options) {
  auto impl = std::make_unique<Impl>(directory, std::move(tables), std::move(options));
  impl->start_from(commit);
  return std::unique_ptr<RowLog>(new RowLog(std::move(impl)));
}

void RowLog::read(std::span<const ReadRequest> requests) { impl_->read(requests); }
void RowLog::append(std::span<const AppendSection> sections) { impl_->append(sections); }
void RowLog::append(std::span<const RecordRef> records) { impl_->append(records); }
int64_t RowLog::commit(const std::string& commit) { return impl_->commit(commit); }
bool RowLog::wants_compaction() const { return impl_->wants_compaction(); }
bool RowLog::must_compact() const { return impl_->must_compact(); }
bool RowLog::read_only() const { return impl_->read_only(); }
bool RowLog::compact() { return impl_->compact(false); }
LogStats RowLog::stats() const { return impl_->stats(); }
const std::vector<TableLayout>& RowLog::tables() const { return impl_->tables(); }
int64_t RowLog::memory_bytes() const { return impl_->memory_bytes(); }
void RowLog::scan(int64_t table, const std::function<void(std::span<const uint32_t>, const std::byte*)>& piece) {
  impl_->scan(table, piece);
}

}  // namespace hotrow::storage

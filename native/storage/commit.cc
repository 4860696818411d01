#include "commit.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <iterator>
#include <type_traits>

#include "commit_json.h"
#include "crc32c.h"
#include "row_log_impl.h"

namespace hotrow::storage {
namespace {

// The checksum is the last member and covers all before it.
constexpr char kChecksumKey[] = ",\n \"crc32c\": ";

std::string encode(const CommitContent& content) {
  std::string text = "{\"format\": \"hotrow rows\",\n \"format_version\": " + std::to_string(kFormatVersion) +
                     ",\n \"next_sequence\": " + std::to_string(content.next_sequence) + ",\n \"tables\": [";
  const char* between = "\n  ";
  for (const TableLayout& table : content.tables) {
    text += between + ("{\"name\": " + quoted(table.name)) + ", \"num_rows\": " + std::to_string(table.num_rows) +
            ", \"record_bytes\": " + std::to_string(table.record_bytes) + ", \"order_id\": " + quoted(table.order_id) +
            ", \"record\": " + quoted(table.record) + "}";
    between = ",\n  ";
  }
  text += "],\n \"runs\": [";
  between = "\n  ";
  for (const RunEntry& run : content.runs) {
    text += between + ("{\"sequence\": " + std::to_string(run.sequence)) + ", \"bytes\": " + std::to_string(run.bytes) +
            ", \"footer_crc32c\": " + std::to_string(run.footer_checksum) + "}";
    between = ",\n  ";
  }
  text += "]";
  return text + kChecksumKey + std::to_string(crc32c(text.data(), text.size())) + "}\n";
}

void check_text(const std::string& text, const std::string& path) {
  const size_t end = text.rfind(kChecksumKey);
  if (end == std::string::npos) throw FormatFault(path + ": is cut short or is not the rows.json of a checkpoint");
  uint32_t stored = 0;
  const char* digits = text.data() + end + std::strlen(kChecksumKey);
  const auto result = std::from_chars(digits, text.data() + text.size(), stored);
  const std::string_view rest(result.ptr, static_cast<size_t>(text.data() + text.size() - result.ptr));
  if (result.ec != std::errc() || rest != "}\n") throw FormatFault(path + ": its end is malformed");
  const uint32_t computed = crc32c(text.data(), end);
  if (computed != stored) {
    throw FormatFault(path + ": checksum is " + std::to_string(computed) + ", expected " + std::to_string(stored));
  }
}

/// Files may be direct: whole blocks go to and from aligned memory, the text itself ends in blanks.
std::string padded(std::string text) {
  text.resize(static_cast<size_t>(round_up(static_cast<int64_t>(text.size()), kBlockBytes)), ' ');
  return text;
}

std::string read_text(FileSystem& files, const std::string& path) {
  const std::unique_ptr<File> file = files.open(path);
  const int64_t bytes = file->size();
  if (bytes == 0 || bytes % kBlockBytes != 0) {
    throw FormatFault(path + ": has " + std::to_string(bytes) + " bytes, expected a multiple of 4096: cut short");
  }
  const AlignedBuffer buffer(bytes);
  read_exactly(*file, 0, bytes, buffer.data());
  std::string text(reinterpret_cast<const char*>(buffer.data()), static_cast<size_t>(bytes));
  text.resize(text.find_last_not_of(' ') + 1);
  return text;
}

}  // namespace

int64_t write_commit(FileSystem& files, const std::string& directory, const CommitContent& content) {
  const std::string text = padded(encode(content));
  const AlignedBuffer buffer(static_cast<int64_t>(text.size()));
  std::memcpy(buffer.data(), text.data(), text.size());
  const std::unique_ptr<File> file = files.create(directory + "/" + kCommitFile);
  const Extent extent{0, static_cast<int64_t>(text.size()), buffer.data()};
  file->write({&extent, 1});
  file->sync();
  return extent.size;
}

CommitContent read_commit(FileSystem& files, const std::string& directory) {
  const std::string path = directory + "/" + kCommitFile;
  if (!files.exists(path)) throw FormatFault(path + ": is missing: not a checkpoint of rows");
  const std::string text = read_text(files, path);
  check_text(text, path);
  const Json json = Json::parse(text, path);
  if (json.at("format").text() != "hotrow rows" || json.at("format_version").number() != kFormatVersion) {
    throw FormatFault(path + ": format version " + std::to_string(json.at("format_version").number()) +
                      ", this hotrow reads version " + std::to_string(kFormatVersion));
  }
  CommitContent content;
  content.next_sequence = static_cast<uint64_t>(json.at("next_sequence").number());
  for (const Json& table : json.at("tables").items()) {
    content.tables.push_back({table.at("name").text(), table.at("num_rows").number(), table.at("record_bytes").number(),
                              table.at("order_id").text(), table.at("record").text()});
  }
  for (const Json& run : json.at("runs").items()) {
    content.runs.push_back({static_cast<uint64_t>(run.at("sequence").number()), run.at("bytes").number(),
                            static_cast<uint32_t>(run.at("footer_crc32c").number())});
  }
  return content;
}

namespace {

/// One thing in which two tables must agree.
template <typename Value>
void must_agree(const std::string& path, const std::string& table, const char* what, const Value& committed,
                const Value& wanted) {
  if (committed == wanted) return;
  const auto text = [](const auto& value) {
    if constexpr (std::is_same_v<Value, std::string>) {
      return "'" + value + "'";
    } else {
      return std::to_string(value);
    }
  };
  throw FormatFault(path + ": table '" + table + "' has " + what + " " + text(committed) + ", expected " +
                    text(wanted));
}

}  // namespace

void check_tables(const CommitContent& content, const std::vector<TableLayout>& tables, const std::string& path) {
  if (content.tables.size() != tables.size()) {
    throw FormatFault(path + ": has " + std::to_string(content.tables.size()) + " tables, expected " +
                      std::to_string(tables.size()));
  }
  for (size_t i = 0; i < tables.size(); ++i) {
    const TableLayout& committed = content.tables[i];
    const TableLayout& wanted = tables[i];
    if (committed.name != wanted.name) {
      throw FormatFault(path + ": table " + std::to_string(i) + " is '" + committed.name + "', expected '" +
                        wanted.name + "'");
    }
    must_agree(path, wanted.name, "record_bytes", committed.record_bytes, wanted.record_bytes);
    must_agree(path, wanted.name, "record", committed.record, wanted.record);
    must_agree(path, wanted.name, "order_id", committed.order_id, wanted.order_id);
    if (committed.num_rows > wanted.num_rows) {
      throw FormatFault(path + ": table '" + wanted.name + "' has " + std::to_string(committed.num_rows) +
                        " rows, more than the " + std::to_string(wanted.num_rows) + " asked for: tables only grow");
    }
  }
}

namespace {

void sync_run(Run& run) {
  const std::lock_guard lock(run.sync_mutex);
  if (run.synced) return;
  if (run.sync_failed) {
    throw IoError(run.path, "sync", -1, EIO,
                  "an earlier sync failed, its bytes may be lost; reopen the last checkpoint");
  }
  run.sync_failed = true;
  run.file->sync();
  run.sync_failed = false;
  run.synced = true;
}

}  // namespace

int64_t RowLog::Impl::commit(const std::string& directory) {
  check_writable();
  const std::lock_guard committing(commit_mutex_);
  reap();
  CommitContent content;
  content.tables = tables_;
  std::vector<RunPointer> runs;
  {
    const std::lock_guard appending(append_mutex_);  // no run is half in the index by an append
    content.next_sequence = next_sequence_;
    const std::shared_lock index(index_mutex_);
    std::copy_if(runs_.begin(), runs_.end(), std::back_inserter(runs), [](const RunPointer& run) { return !!run; });
  }
  std::sort(runs.begin(), runs.end(), [](const auto& a, const auto& b) { return a->sequence < b->sequence; });
  int64_t new_bytes = 0;
  std::set<uint64_t> committed;
  for (const RunPointer& run : runs) {
    sync_run(*run);
    options_.files->link(run->path, directory + "/" + run_name(run->sequence));
    content.runs.push_back({run->sequence, run->bytes, run->footer_checksum});
    committed.insert(run->sequence);
    if (!last_committed_.contains(run->sequence)) new_bytes += run->bytes;
  }
  new_bytes += write_commit(*options_.files, directory, content);
  options_.files->sync_directory(directory);
  last_committed_ = std::move(committed);
  runs.clear();
  reap_quietly();
  return new_bytes;
}

}  // namespace hotrow::storage

// Run files: writing one, opening one.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "hotrow/storage/aligned_buffer.h"
#include "hotrow/storage/file.h"
#include "hotrow/storage/row_log.h"
#include "page.h"
#include "row_index.h"
#include "run_format.h"

namespace hotrow::storage {

/// The records of one table in a run.
struct RunSection {
  uint32_t table = 0;
  int64_t count = 0;
  int64_t offset = 0;  // of its first page in the file
  Fences fences;
  int64_t live = 0;  // records that the index names; guarded by the log
};

/// One immutable file and what memory keeps of it.
struct Run {
  uint64_t sequence = 0;
  std::string path;
  std::unique_ptr<File> file;
  int64_t bytes = 0;
  uint32_t footer_checksum = 0;
  std::vector<RunSection> sections;  // ascending by table
  bool held = false;  // keeps its tag, live or not: it is being put into the index or compacted; guarded by the log

  std::mutex sync_mutex;
  bool synced = false;
  bool sync_failed = false;  // what the file holds on the device is unknown from then on

  /// The section of a table, or null.
  const RunSection* section(uint32_t table) const;
  RunSection* section(uint32_t table);
  int64_t memory_bytes() const;
};

void read_exactly(File& file, int64_t offset, int64_t size, std::byte* data);

/// Writes a run: records in ascending order of (table, place), through a buffer, in large writes.
class RunWriter {
 public:
  /// Tables: ascending, those that records may follow of. gathered_bytes: written at a time, a page at least.
  RunWriter(FileSystem& files, const std::string& path, uint64_t sequence, const std::vector<TableLayout>& layouts,
            const std::vector<uint32_t>& tables, int64_t gathered_bytes);
  /// Removes what was written unless it was finished; what cannot be removed is left to the next opening.
  ~RunWriter();

  void begin_section(uint32_t table);
  void add(uint32_t place, const std::byte* record);
  /// Ends the file; not synced.
  std::shared_ptr<Run> finish();
  /// Calls back with the places written, section by section; until the writer dies.
  void replay(const std::function<void(size_t section, std::span<const uint32_t> places)>& sink) const;
  int64_t num_records() const { return num_records_; }

 private:
  void abandon();
  std::byte* reserve(int64_t bytes);
  void put(const void* data, size_t bytes);
  void flush();
  void end_page();
  void end_section();
  uint32_t put_footer();

  FileSystem& files_;
  const std::vector<TableLayout>& layouts_;
  std::shared_ptr<Run> run_;
  AlignedBuffer buffer_;
  bool finished_ = false;
  int64_t used_ = 0, written_ = 0, num_records_ = 0;
  PageShape shape_;
  std::byte* page_ = nullptr;
  uint32_t page_number_ = 0, previous_place_ = 0;
  std::vector<uint32_t> first_places_;  // of the section's pages
  std::vector<uint8_t> places_;         // varints of all sections
  std::vector<size_t> places_begin_;    // of each section
  uint32_t header_checksum_ = 0, pages_checksum_ = 0, footer_checksum_ = 0;
};

/// What a commit says about a run.
struct RunEntry {
  uint64_t sequence = 0;
  int64_t bytes = 0;
  uint32_t footer_checksum = 0;
};

/// Opens a run, checks header and footer, and calls back with its places, in order. Throws FormatFault naming the file
/// and what is wrong.
std::shared_ptr<Run> load_run(FileSystem& files, const std::string& path, const RunEntry& entry,
                              const std::vector<TableLayout>& layouts,
                              const std::function<void(const RunSection&, std::span<const uint32_t>)>& sink);

}  // namespace hotrow::storage

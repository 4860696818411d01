// One call of RowLog::read: rows are resolved to pages, pages are read once each, records are copied out as they come.
#pragma once

#include <span>
#include <vector>

#include "row_log_impl.h"

namespace hotrow::storage {

/// A row that is looked for in a page.
struct Wanted {
  uint32_t request = 0;
  uint32_t index = 0;  // of the place in the request
  uint32_t page = 0;   // of the table's section
  uint8_t slot = 0;    // of the run
};

class RowReader {
 public:
  RowReader(RowLog::Impl& log, std::span<const ReadRequest> requests) : log_(log), requests_(requests) {}
  void run();

 private:
  /// Neighbouring pages of one run that are read at once, and the rows wanted of them.
  struct Piece {
    FileExtent at;
    size_t begin = 0, end = 0;
  };

  void resolve();
  void resolve_request(uint32_t number, std::vector<Wanted>& found);
  void sort_by_page(const std::vector<Wanted>& found);
  int64_t page_offset(const Wanted& wanted) const;
  size_t collect(size_t begin, std::vector<Piece>& pieces) const;
  bool extend(Piece& piece, const Wanted& wanted, int64_t used) const;
  void read_pieces(std::span<const Piece> pieces);
  void copy_piece(const Piece& piece);
  void copy_page(const std::byte* page, const Wanted& wanted, size_t begin, size_t end);
  void check_all_found() const;
  uint32_t table_of(const Wanted& wanted) const { return static_cast<uint32_t>(requests_[wanted.request].table); }
  const PageShape& shape_of(const Wanted& wanted) const { return log_.shapes_[table_of(wanted)]; }
  [[noreturn]] void fault(const Wanted& wanted, const std::string& what) const;

  RowLog::Impl& log_;
  const std::span<const ReadRequest> requests_;
  std::array<RunPointer, kMaxRuns + 1> runs_;
  std::vector<Wanted> wanted_;  // by run and page
  bool sorted_requests_ = true;
  std::byte* staging_ = nullptr;
  int64_t staging_bytes_ = 0;
};

}  // namespace hotrow::storage

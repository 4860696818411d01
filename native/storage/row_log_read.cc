#include "row_log_read.h"

#include <algorithm>
#include <cstring>
#include <tuple>

namespace hotrow::storage {
namespace {

constexpr int64_t kLargestExtent = 512 << 10;  // so that several are in flight

}  // namespace

std::unique_ptr<AlignedBuffer> StagingPool::take() {
  const std::lock_guard lock(mutex_);
  ++taken_;
  if (free_.empty()) return std::make_unique<AlignedBuffer>(buffer_bytes_);
  std::unique_ptr<AlignedBuffer> buffer = std::move(free_.back());
  free_.pop_back();
  return buffer;
}

void StagingPool::give_back(std::unique_ptr<AlignedBuffer> buffer) {
  const std::lock_guard lock(mutex_);
  --taken_;
  if (free_.size() < kKept) free_.push_back(std::move(buffer));
}

int64_t StagingPool::memory_bytes() const {
  const std::lock_guard lock(mutex_);
  return buffer_bytes_ * (taken_ + static_cast<int64_t>(free_.size()));
}

void RowReader::run() {
  resolve();
  if (wanted_.empty()) return;
  // What reads at a time is a buffer from the pool; it goes back however this ends.
  struct Lease {
    StagingPool& pool;
    std::unique_ptr<AlignedBuffer> buffer;
    ~Lease() { pool.give_back(std::move(buffer)); }
  };
  const Lease lease{log_.staging_, log_.staging_.take()};
  staging_ = lease.buffer->data();
  staging_bytes_ = lease.buffer->size();
  std::vector<Piece> pieces;
  for (size_t begin = 0; begin < wanted_.size();) {
    begin = collect(begin, pieces);
    read_pieces(pieces);
  }
  check_all_found();
}

void RowReader::resolve() {
  std::vector<Wanted> found;
  {
    const std::shared_lock index(log_.index_mutex_);
    for (uint32_t i = 0; i < requests_.size(); ++i) {
      sorted_requests_ = sorted_requests_ && (i == 0 || requests_[i - 1].table < requests_[i].table);
      resolve_request(i, found);
    }
    for (const Wanted& wanted : found) {
      if (!runs_[wanted.slot]) runs_[wanted.slot] = log_.runs_[wanted.slot];
    }
  }
  sort_by_page(found);
}

void RowReader::resolve_request(uint32_t number, std::vector<Wanted>& found) {
  const ReadRequest& request = requests_[number];
  log_.check_sorted(request.table, request.places);
  const auto table = static_cast<uint32_t>(request.table);
  const Tags& tags = log_.tags_[table];
  std::array<const RunSection*, kMaxRuns + 1> sections{};
  for (size_t i = 0; i < request.places.size(); ++i) {
    if (request.only_missing && request.found[i] != 0) continue;
    request.found[i] = 0;
    const auto slot = static_cast<size_t>(tags.get(request.places[i]));
    if (slot == 0) continue;
    if (sections[slot] == nullptr) sections[slot] = log_.runs_[slot]->section(table);
    const Fences::Pages pages = sections[slot]->fences.find(request.places[i]);
    for (uint32_t page = pages.first; page <= pages.last; ++page) {
      found.push_back({number, static_cast<uint32_t>(i), page, static_cast<uint8_t>(slot)});
    }
  }
}

void RowReader::sort_by_page(const std::vector<Wanted>& found) {
  std::array<size_t, kMaxRuns + 2> begin{};
  for (const Wanted& wanted : found) ++begin[wanted.slot + size_t{1}];
  for (size_t slot = 1; slot < begin.size(); ++slot) begin[slot] += begin[slot - 1];
  wanted_.resize(found.size());
  for (const Wanted& wanted : found) wanted_[begin[wanted.slot]++] = wanted;
  const auto before = [this](const Wanted& a, const Wanted& b) {
    return std::make_tuple(a.slot, table_of(a), a.page, a.request, a.index) <
           std::make_tuple(b.slot, table_of(b), b.page, b.request, b.index);
  };
  // Requests in order of table are in order by now, but for rows that two pages are read for.
  if (!sorted_requests_ || !std::is_sorted(wanted_.begin(), wanted_.end(), before)) {
    std::sort(wanted_.begin(), wanted_.end(), before);
  }
}

int64_t RowReader::page_offset(const Wanted& wanted) const {
  return runs_[wanted.slot]->section(table_of(wanted))->offset + wanted.page * shape_of(wanted).page_bytes;
}

/// As many pieces as the staging buffer takes, of one run after the other; returns the first row that is left.
size_t RowReader::collect(size_t begin, std::vector<Piece>& pieces) const {
  pieces.clear();
  int64_t used = 0;
  for (; begin < wanted_.size(); ++begin) {
    const Wanted& wanted = wanted_[begin];
    if (pieces.empty() || !extend(pieces.back(), wanted, used)) {
      const int64_t page_bytes = shape_of(wanted).page_bytes;
      if (used + page_bytes > staging_bytes_) return begin;
      File* const file = runs_[wanted.slot]->file.get();
      pieces.push_back({{file, {page_offset(wanted), page_bytes, staging_ + used}}, begin, begin});
    }
    Piece& piece = pieces.back();
    used = piece.at.extent.data + piece.at.extent.size - staging_;
    piece.end = begin + 1;
  }
  return begin;
}

bool RowReader::extend(Piece& piece, const Wanted& wanted, int64_t used) const {
  if (wanted_[piece.begin].slot != wanted.slot) return false;
  Extent& extent = piece.at.extent;
  const int64_t offset = page_offset(wanted), page_bytes = shape_of(wanted).page_bytes;
  const int64_t end = extent.offset + extent.size;
  if (offset + page_bytes <= end) return true;  // a row of a page that is read already
  const int64_t more = offset + page_bytes - end;
  const bool near = offset - end <= log_.options_.gap_bytes;
  if (!near || extent.size + more > kLargestExtent || used + more > staging_bytes_) return false;
  extent.size += more;
  return true;
}

/// Of all runs together, so that as many are in flight as the disk wants.
void RowReader::read_pieces(std::span<const Piece> pieces) {
  std::vector<FileExtent> extents;
  extents.reserve(pieces.size());
  for (const Piece& piece : pieces) {
    extents.push_back(piece.at);
    log_.read_.bytes += piece.at.extent.size;
  }
  log_.read_.requests += static_cast<int64_t>(extents.size());
  log_.options_.files->read(extents, [&](size_t i) { copy_piece(pieces[i]); });
}

void RowReader::copy_piece(const Piece& piece) {
  const Extent& extent = piece.at.extent;
  for (size_t begin = piece.begin; begin < piece.end;) {
    const Wanted& first = wanted_[begin];
    size_t end = begin;
    while (end < piece.end && wanted_[end].page == first.page && table_of(wanted_[end]) == table_of(first)) ++end;
    copy_page(extent.data + (page_offset(first) - extent.offset), first, begin, end);
    begin = end;
  }
}

void RowReader::copy_page(const std::byte* page, const Wanted& wanted, size_t begin, size_t end) {
  const PageShape& shape = shape_of(wanted);
  const std::string problem = check_page(page, shape, {runs_[wanted.slot]->sequence, table_of(wanted), wanted.page});
  if (!problem.empty()) fault(wanted, problem);
  ++log_.read_.pages;
  int64_t position = 0;
  for (size_t i = begin; i < end; ++i) {
    const ReadRequest& request = requests_[wanted_[i].request];
    const uint32_t index = wanted_[i].index;
    if (i > begin && wanted_[i].request != wanted_[i - 1].request) position = 0;
    const int64_t hit = find_place(page, request.places[index], position);
    if (hit < 0) continue;
    position = hit;
    std::memcpy(request.records + index * shape.record_bytes, record_at(page, shape, hit),
                static_cast<size_t>(shape.record_bytes));
    request.found[index] = 1;
    ++log_.read_.rows;
  }
}

void RowReader::check_all_found() const {
  for (const Wanted& wanted : wanted_) {
    const ReadRequest& request = requests_[wanted.request];
    if (request.found[wanted.index] != 0) continue;
    fault(wanted, "row " + std::to_string(request.places[wanted.index]) + " is not in it");
  }
}

void RowReader::fault(const Wanted& wanted, const std::string& what) const {
  throw FormatFault(runs_[wanted.slot]->path + ": table '" + log_.tables_[table_of(wanted)].name + "', page " +
                    std::to_string(wanted.page) + " at byte " + std::to_string(page_offset(wanted)) + ": " + what);
}

void RowLog::Impl::read(std::span<const ReadRequest> requests) { RowReader(*this, requests).run(); }

void RowLog::Impl::scan(int64_t table, const std::function<void(std::span<const uint32_t>, const std::byte*)>& piece) {
  check_table(table);
  const TableLayout& layout = tables_[static_cast<size_t>(table)];
  const auto rows_at_once = static_cast<size_t>(std::max<int64_t>(1, staging_.buffer_bytes() / layout.record_bytes));
  std::vector<uint32_t> places;
  std::vector<std::byte> records;
  std::vector<uint8_t> found;
  for (int64_t next = 0; next < layout.num_rows;) {
    places.clear();
    {
      const std::shared_lock index(index_mutex_);
      const Tags& tags = tags_[static_cast<size_t>(table)];
      for (; next < layout.num_rows && places.size() < rows_at_once; ++next) {
        if (tags.get(static_cast<uint32_t>(next)) != 0) places.push_back(static_cast<uint32_t>(next));
      }
    }
    if (places.empty()) break;
    records.resize(places.size() * static_cast<size_t>(layout.record_bytes));
    found.resize(places.size());
    const ReadRequest request{table, places, records.data(), found.data()};
    read({&request, 1});
    piece(places, records.data());
  }
}

}  // namespace hotrow::storage

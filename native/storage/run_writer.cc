#include <algorithm>
#include <cstring>
#include <utility>

#include "crc32c.h"
#include "run_file.h"
#include "run_places.h"

namespace hotrow::storage {
namespace {

constexpr int64_t kWriteBytes = 1 << 20;  // one of several writes in flight

int64_t buffer_bytes(const std::vector<TableLayout>& layouts, const std::vector<uint32_t>& tables, int64_t gathered) {
  int64_t bytes = AlignedBuffer::round_up(std::max<int64_t>(gathered, 1));
  for (const uint32_t table : tables) bytes = std::max(bytes, page_shape(layouts[table].record_bytes).page_bytes);
  return bytes;
}

}  // namespace

const RunSection* Run::section(uint32_t table) const {
  const auto hit = std::lower_bound(sections.begin(), sections.end(), table,
                                    [](const RunSection& section, uint32_t wanted) { return section.table < wanted; });
  return hit != sections.end() && hit->table == table ? &*hit : nullptr;
}

RunSection* Run::section(uint32_t table) { return const_cast<RunSection*>(std::as_const(*this).section(table)); }

int64_t Run::memory_bytes() const {
  auto bytes = static_cast<int64_t>(sizeof(Run) + path.capacity() + sections.capacity() * sizeof(RunSection));
  for (const RunSection& section : sections) bytes += section.fences.memory_bytes();
  return bytes;
}

RunWriter::RunWriter(FileSystem& files, const std::string& path, uint64_t sequence,
                     const std::vector<TableLayout>& layouts, const std::vector<uint32_t>& tables,
                     int64_t gathered_bytes)
    : files_(files),
      layouts_(layouts),
      run_(std::make_shared<Run>()),
      buffer_(buffer_bytes(layouts, tables, gathered_bytes)) {
  const std::vector<std::byte> header = encode_header(sequence, layouts, tables);
  std::memcpy(&header_checksum_, header.data() + offsetof(RunHeader, checksum), sizeof(header_checksum_));
  run_->sequence = sequence;
  run_->path = path;
  run_->sections.reserve(tables.size());
  if (buffer_.size() < static_cast<int64_t>(header.size()))
    buffer_ = AlignedBuffer(static_cast<int64_t>(header.size()));
  put(header.data(), header.size());
  run_->file = files_.create(path);
}

RunWriter::~RunWriter() {
  if (!finished_) abandon();
}

std::byte* RunWriter::reserve(int64_t bytes) {
  if (used_ + bytes > buffer_.size()) flush();
  std::byte* data = buffer_.data() + used_;
  std::memset(data, 0, static_cast<size_t>(bytes));
  used_ += bytes;
  return data;
}

void RunWriter::put(const void* data, size_t bytes) {
  const auto* from = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    if (used_ == buffer_.size()) flush();
    const size_t part = std::min(bytes, static_cast<size_t>(buffer_.size() - used_));
    std::memcpy(buffer_.data() + used_, from, part);
    used_ += static_cast<int64_t>(part);
    from += part;
    bytes -= part;
  }
}

void RunWriter::flush() {
  std::vector<Extent> extents;
  for (int64_t begin = 0; begin < used_; begin += kWriteBytes) {
    extents.push_back({written_ + begin, std::min(kWriteBytes, used_ - begin), buffer_.data() + begin});
  }
  if (!extents.empty()) run_->file->write(extents);
  written_ += used_;
  used_ = 0;
}

void RunWriter::begin_section(uint32_t table) {
  end_section();
  shape_ = page_shape(layouts_[table].record_bytes);
  page_number_ = 0;
  first_places_.clear();
  places_begin_.push_back(places_.size());
  RunSection& section = run_->sections.emplace_back();
  section.table = table;
  section.offset = written_ + used_;
}

void RunWriter::add(uint32_t place, const std::byte* record) {
  RunSection& section = run_->sections.back();
  if (page_ == nullptr) {
    page_ = reserve(shape_.page_bytes);
    begin_page(page_, {run_->sequence, section.table, page_number_++});
    first_places_.push_back(place);
  }
  add_record(page_, shape_, place, record);
  put_varint(places_, section.count == 0 ? place : place - previous_place_);
  previous_place_ = place;
  ++section.count;
  ++num_records_;
  if (header_of(page_).count == shape_.records) end_page();
}

void RunWriter::end_page() {
  if (page_ == nullptr) return;
  const uint32_t checksum = finish_page(page_, shape_);
  pages_checksum_ = crc32c(&checksum, sizeof(checksum), pages_checksum_);
  page_ = nullptr;
}

void RunWriter::end_section() {
  end_page();
  if (!run_->sections.empty()) run_->sections.back().fences = Fences(first_places_);
}

std::shared_ptr<Run> RunWriter::finish() {
  end_section();
  run_->footer_checksum = put_footer();
  flush();
  run_->bytes = written_;
  finished_ = true;
  return run_;
}

uint32_t RunWriter::put_footer() {
  RunTrailer trailer;
  std::memcpy(trailer.magic, kTrailerMagic, sizeof(trailer.magic));
  trailer.format_version = kFormatVersion;
  trailer.num_sections = static_cast<uint32_t>(run_->sections.size());
  trailer.sequence = run_->sequence;
  trailer.footer_offset = static_cast<uint64_t>(written_ + used_);
  trailer.header_checksum = header_checksum_;
  trailer.pages_checksum = pages_checksum_;
  places_begin_.push_back(places_.size());
  std::vector<SectionEntry> entries;
  for (size_t i = 0; i < run_->sections.size(); ++i) {
    const RunSection& section = run_->sections[i];
    entries.push_back({section.table, 0, static_cast<uint64_t>(section.count), static_cast<uint64_t>(section.offset),
                       places_begin_[i + 1] - places_begin_[i]});
  }
  const size_t content = entries.size() * sizeof(SectionEntry) + places_.size() + sizeof(trailer);
  const std::vector<std::byte> padding(static_cast<size_t>(round_up(static_cast<int64_t>(content), kBlockBytes)) -
                                       content);
  trailer.file_bytes = trailer.footer_offset + content + padding.size();
  uint32_t checksum = crc32c(entries.data(), entries.size() * sizeof(SectionEntry));
  checksum = crc32c(places_.data(), places_.size(), checksum);
  checksum = crc32c(padding.data(), padding.size(), checksum);
  trailer.footer_checksum = crc32c(&trailer, offsetof(RunTrailer, footer_checksum), checksum);
  put(entries.data(), entries.size() * sizeof(SectionEntry));
  put(places_.data(), places_.size());
  put(padding.data(), padding.size());
  put(&trailer, sizeof(trailer));
  return trailer.footer_checksum;
}

void RunWriter::abandon() {
  run_->file.reset();
  try {
    files_.remove(run_->path);
  } catch (const IoError&) {  // the failure that led here is the one to report
  }
}

void RunWriter::replay(const std::function<void(size_t, std::span<const uint32_t>)>& sink) const {
  for (size_t i = 0; i < run_->sections.size(); ++i) {
    PlaceDecoder decoder(static_cast<uint64_t>(run_->sections[i].count));
    for (size_t at = places_begin_[i]; at < places_begin_[i + 1]; ++at) {
      decoder.take(places_[at], [&](std::span<const uint32_t> places) { sink(i, places); });
    }
    decoder.finish([&](std::span<const uint32_t> places) { sink(i, places); });
  }
}

}  // namespace hotrow::storage

#include <algorithm>
#include <cstring>

#include "crc32c.h"
#include "run_file.h"
#include "run_places.h"

namespace hotrow::storage {
namespace {

constexpr int64_t kChunkBytes = 1 << 20;

using Sink = std::function<void(const RunSection&, std::span<const uint32_t>)>;

/// Reads the footer from front to back, adding up its checksum.
class FooterStream {
 public:
  FooterStream(File& file, int64_t offset, int64_t file_bytes)
      : file_(file), offset_(offset), file_bytes_(file_bytes), buffer_(std::min(kChunkBytes, file_bytes - offset)) {}

  uint8_t next() {
    if (at_ == filled_) fill();
    return static_cast<uint8_t>(buffer_.data()[at_++]);
  }

  void copy(void* to, size_t bytes) {
    auto* out = static_cast<uint8_t*>(to);
    for (size_t i = 0; i < bytes; ++i) out[i] = next();
  }

  /// Bytes before the end of the file.
  int64_t left() const { return file_bytes_ - offset_ + filled_ - at_; }

  /// Over everything but the last four bytes, whatever is left to read.
  uint32_t checksum() {
    while (offset_ < file_bytes_) fill();
    return checksum_;
  }

 private:
  void fill() {
    filled_ = std::min(buffer_.size(), file_bytes_ - offset_);
    at_ = 0;
    read_exactly(file_, offset_, filled_, buffer_.data());
    offset_ += filled_;
    const int64_t covered = offset_ == file_bytes_ ? filled_ - 4 : filled_;
    checksum_ = crc32c(buffer_.data(), static_cast<size_t>(covered), checksum_);
  }

  File& file_;
  int64_t offset_, file_bytes_, filled_ = 0, at_ = 0;
  AlignedBuffer buffer_;
  uint32_t checksum_ = 0;
};

class Loader {
 public:
  Loader(FileSystem& files, const std::string& path, const RunEntry& entry, const std::vector<TableLayout>& layouts)
      : path_(path), entry_(entry), layouts_(layouts), run_(std::make_shared<Run>()) {
    if (!files.exists(path)) fail("is missing");
    run_->sequence = entry.sequence;
    run_->path = path;
    run_->bytes = entry.bytes;
    run_->footer_checksum = entry.footer_checksum;
    run_->synced = true;
    run_->file = files.open(path);
  }

  std::shared_ptr<Run> load(const Sink& sink) {
    read_trailer();
    read_header();
    FooterStream stream(*run_->file, static_cast<int64_t>(trailer_.footer_offset), entry_.bytes);
    read_sections(stream);
    for (size_t i = 0; i < run_->sections.size(); ++i) read_places(stream, run_->sections[i], entries_[i], sink);
    if (stream.checksum() != trailer_.footer_checksum) fail("the checksum of its footer is wrong");
    return run_;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw FormatFault(path_ + ": " + what); }

  void read_trailer() {
    const int64_t bytes = run_->file->size();
    if (bytes != entry_.bytes || bytes % kBlockBytes != 0 || bytes < 2 * kBlockBytes) {
      fail("has " + std::to_string(bytes) + " bytes, expected " + std::to_string(entry_.bytes));
    }
    const AlignedBuffer block(kBlockBytes);
    read_exactly(*run_->file, bytes - kBlockBytes, kBlockBytes, block.data());
    std::memcpy(&trailer_, block.data() + kBlockBytes - sizeof(trailer_), sizeof(trailer_));
    check_trailer(trailer_, path_, entry_.sequence, bytes);
    if (trailer_.footer_checksum != entry_.footer_checksum) fail("is not the run that was committed: another checksum");
  }

  void read_header() {
    const AlignedBuffer block(kBlockBytes);
    read_exactly(*run_->file, 0, kBlockBytes, block.data());
    RunHeader header;
    std::memcpy(&header, block.data(), sizeof(header));
    if (std::memcmp(header.magic, kHeaderMagic, sizeof(header.magic)) != 0) fail("is not a run of rows");
    if (header.format_version != kFormatVersion) {
      fail("has format version " + std::to_string(header.format_version) + " in its header");
    }
    if (header.header_bytes % kBlockBytes != 0 || header.header_bytes == 0 ||
        header.header_bytes > trailer_.footer_offset || header.checksum != trailer_.header_checksum) {
      fail("its header does not go with its trailer");
    }
    const AlignedBuffer whole(header.header_bytes);
    read_exactly(*run_->file, 0, whole.size(), whole.data());
    check_header({whole.data(), whole.data() + whole.size()}, path_, entry_.sequence, layouts_);
    header_bytes_ = header.header_bytes;
  }

  void read_sections(FooterStream& stream) {
    if (trailer_.num_sections > layouts_.size()) fail("has more sections than the log has tables");
    entries_.resize(trailer_.num_sections);
    stream.copy(entries_.data(), entries_.size() * sizeof(SectionEntry));
    uint64_t expected = header_bytes_;
    for (size_t i = 0; i < entries_.size(); ++i) {
      const SectionEntry& entry = entries_[i];
      const bool ascending = i == 0 || entries_[i - 1].table < entry.table;
      if (entry.table >= layouts_.size() || !ascending || entry.offset != expected ||
          entry.count > static_cast<uint64_t>(layouts_[entry.table].num_rows)) {
        fail("section " + std::to_string(i) + " of its footer is malformed");
      }
      RunSection& section = run_->sections.emplace_back();
      section.table = entry.table;
      section.count = static_cast<int64_t>(entry.count);
      section.offset = static_cast<int64_t>(entry.offset);
      const PageShape shape = page_shape(layouts_[entry.table].record_bytes);
      expected += static_cast<uint64_t>(shape.pages_for(section.count) * shape.page_bytes);
    }
    if (expected != trailer_.footer_offset) fail("the pages of its sections do not fill it");
    run_->sections.shrink_to_fit();
  }

  void read_places(FooterStream& stream, RunSection& section, const SectionEntry& entry, const Sink& sink) {
    const TableLayout& layout = layouts_[section.table];
    const int64_t per_page = page_shape(layout.record_bytes).records;
    std::vector<uint32_t> first_places;
    int64_t seen = 0;
    const auto pass = [&](std::span<const uint32_t> places) {
      for (const uint32_t place : places) {
        if (seen++ % per_page == 0) first_places.push_back(place);
      }
      if (places.back() >= layout.num_rows) {
        fail("holds row " + std::to_string(places.back()) + " of table '" + layout.name + "', which has " +
             std::to_string(layout.num_rows) + " rows");
      }
      sink(section, places);
    };
    PlaceDecoder decoder(entry.count);
    if (entry.places_bytes > static_cast<uint64_t>(stream.left())) fail("its footer is malformed");
    for (uint64_t i = 0; i < entry.places_bytes; ++i) {
      if (!decoder.take(stream.next(), pass)) fail("the places of table '" + layout.name + "' are malformed");
    }
    decoder.finish(pass);
    if (!decoder.complete()) fail("the places of table '" + layout.name + "' are cut short");
    section.fences = Fences(first_places);
  }

  const std::string& path_;
  const RunEntry& entry_;
  const std::vector<TableLayout>& layouts_;
  std::shared_ptr<Run> run_;
  RunTrailer trailer_;
  std::vector<SectionEntry> entries_;
  uint64_t header_bytes_ = 0;
};

}  // namespace

void read_exactly(File& file, int64_t offset, int64_t size, std::byte* data) {
  constexpr int64_t kPart = 1 << 20;
  std::vector<Extent> extents;
  for (int64_t begin = 0; begin < size; begin += kPart) {
    extents.push_back({offset + begin, std::min(kPart, size - begin), data + begin});
  }
  file.read(extents, [](size_t) {});
}

std::shared_ptr<Run> load_run(FileSystem& files, const std::string& path, const RunEntry& entry,
                              const std::vector<TableLayout>& layouts, const Sink& sink) {
  return Loader(files, path, entry, layouts).load(sink);
}

}  // namespace hotrow::storage

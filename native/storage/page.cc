#include "page.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "crc32c.h"

namespace hotrow::storage {
namespace {

constexpr int64_t kWantedRecords = 15;
constexpr int64_t kLargestSharedPage = 64 * 1024;

int64_t records_in(int64_t page_bytes, int64_t record_bytes) {
  return (page_bytes - static_cast<int64_t>(sizeof(PageHeader))) / (record_bytes + 4);
}

PageHeader& mutable_header(std::byte* page) { return *reinterpret_cast<PageHeader*>(page); }

uint32_t* offsets_of(std::byte* page) { return reinterpret_cast<uint32_t*>(page + sizeof(PageHeader)); }
const uint32_t* offsets_of(const std::byte* page) {
  return reinterpret_cast<const uint32_t*>(page + sizeof(PageHeader));
}

uint32_t checksum_of(const std::byte* page, const PageShape& shape) {
  constexpr size_t kSkip = sizeof(PageHeader::checksum);
  return crc32c(page + kSkip, static_cast<size_t>(shape.page_bytes) - kSkip);
}

std::string differs(const char* what, uint64_t is, uint64_t expected) {
  char text[96];
  std::snprintf(text, sizeof(text), "%s is %llu, expected %llu", what, static_cast<unsigned long long>(is),
                static_cast<unsigned long long>(expected));
  return text;
}

}  // namespace

PageShape page_shape(int64_t record_bytes) {
  int64_t page_bytes = kBlockBytes;
  while (page_bytes < kLargestSharedPage && records_in(page_bytes, record_bytes) < kWantedRecords) page_bytes *= 2;
  while (records_in(page_bytes, record_bytes) < 1) page_bytes *= 2;
  return {page_bytes, records_in(page_bytes, record_bytes), record_bytes};
}

void begin_page(std::byte* page, const PageId& id) {
  PageHeader& header = mutable_header(page);
  header = PageHeader{};
  header.magic = kPageMagic;
  header.run = static_cast<uint32_t>(id.run);
  header.table = id.table;
  header.page = id.page;
}

void add_record(std::byte* page, const PageShape& shape, uint32_t place, const std::byte* record) {
  PageHeader& header = mutable_header(page);
  if (header.count == 0) header.first_place = place;
  offsets_of(page)[header.count] = place - header.first_place;
  std::memcpy(page + shape.records_offset() + header.count * shape.record_bytes, record,
              static_cast<size_t>(shape.record_bytes));
  ++header.count;
}

uint32_t finish_page(std::byte* page, const PageShape& shape) {
  return mutable_header(page).checksum = checksum_of(page, shape);
}

std::string check_page(const std::byte* page, const PageShape& shape, const PageId& id) {
  const PageHeader& header = header_of(page);
  const uint32_t checksum = checksum_of(page, shape);
  if (header.checksum != checksum) return differs("checksum", checksum, header.checksum);
  if (header.magic != kPageMagic) return differs("magic number", header.magic, kPageMagic);
  if (header.run != static_cast<uint32_t>(id.run)) return differs("run", header.run, static_cast<uint32_t>(id.run));
  if (header.table != id.table) return differs("table number", header.table, id.table);
  if (header.page != id.page) return differs("page number", header.page, id.page);
  if (header.count < 1 || header.count > shape.records) return differs("record count", header.count, shape.records);
  return {};
}

const PageHeader& header_of(const std::byte* page) { return *reinterpret_cast<const PageHeader*>(page); }

uint32_t place_at(const std::byte* page, int64_t position) {
  return header_of(page).first_place + offsets_of(page)[position];
}

const std::byte* record_at(const std::byte* page, const PageShape& shape, int64_t position) {
  return page + shape.records_offset() + position * shape.record_bytes;
}

int64_t find_place(const std::byte* page, uint32_t place, int64_t from) {
  const PageHeader& header = header_of(page);
  if (place < header.first_place) return -1;
  const uint32_t* begin = offsets_of(page);
  const uint32_t* end = begin + header.count;
  const uint32_t wanted = place - header.first_place;
  const uint32_t* hit = std::lower_bound(begin + from, end, wanted);
  return hit != end && *hit == wanted ? hit - begin : -1;
}

}  // namespace hotrow::storage

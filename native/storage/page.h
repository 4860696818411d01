// Pages of records: shape, encoding, verification. Byte by byte: docs/row-format.md.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>

#include "hotrow/storage/file.h"

namespace hotrow::storage {

static_assert(std::endian::native == std::endian::little, "files are little-endian and read as they are");

constexpr int64_t kBlockBytes = kDirectAlignment;  // what every offset and size in a run is a multiple of
constexpr int64_t kMaxRecordBytes = 1 << 20;

struct PageHeader {
  uint32_t checksum = 0;  // CRC-32C of all that follows in the page
  uint32_t magic = 0;
  uint32_t run = 0;    // the lowest 32 bits of the run's sequence number
  uint32_t table = 0;  // index in the log
  uint32_t page = 0;   // within its section
  uint32_t count = 0;
  uint32_t first_place = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(PageHeader) == 32);

constexpr uint32_t kPageMagic = 0x50525248;  // "HRRP"

/// How a table's records lie in its pages.
struct PageShape {
  int64_t page_bytes = 0;
  int64_t records = 0;  // per page
  int64_t record_bytes = 0;
  int64_t records_offset() const { return static_cast<int64_t>(sizeof(PageHeader)) + 4 * records; }
  int64_t pages_for(int64_t count) const { return (count + records - 1) / records; }
};

/// The smallest power of two of at least 4 KiB that holds 15 records; at most 64 KiB unless one record needs more.
PageShape page_shape(int64_t record_bytes);

/// Which page is expected where.
struct PageId {
  uint64_t run = 0;
  uint32_t table = 0;
  uint32_t page = 0;
};

/// Starts a page in `page_bytes` zeroed bytes; records are added in ascending order of place.
void begin_page(std::byte* page, const PageId& id);
void add_record(std::byte* page, const PageShape& shape, uint32_t place, const std::byte* record);
/// Writes the checksum; returns it.
uint32_t finish_page(std::byte* page, const PageShape& shape);

/// Empty if the page is the one expected and whole; else what is wrong with it.
std::string check_page(const std::byte* page, const PageShape& shape, const PageId& id);

const PageHeader& header_of(const std::byte* page);
uint32_t place_at(const std::byte* page, int64_t position);
const std::byte* record_at(const std::byte* page, const PageShape& shape, int64_t position);

/// Position of a place in a checked page, at or after `from`; -1 if it is not there.
int64_t find_place(const std::byte* page, uint32_t place, int64_t from);

}  // namespace hotrow::storage

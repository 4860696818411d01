// What is around the pages of a run file: header, footer, trailer. Byte by byte: docs/row-format.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "hotrow/storage/row_log.h"
#include "page.h"

namespace hotrow::storage {

constexpr uint32_t kFormatVersion = 1;
constexpr char kHeaderMagic[] = "HRROWRUN";   // 8 bytes in the file
constexpr char kTrailerMagic[] = "HRROWEND";  // 8 bytes in the file

/// Start of a run file; JSON about its tables follows.
struct RunHeader {
  char magic[8] = {};
  uint32_t format_version = 0;
  uint32_t header_bytes = 0;  // with JSON and padding: where the first page starts
  uint64_t sequence = 0;
  uint32_t json_bytes = 0;
  uint32_t checksum = 0;  // CRC-32C of the header's bytes, this field as zero
};
static_assert(sizeof(RunHeader) == 32);

/// One per table of the run, at the start of the footer; the places of all sections follow as varints.
struct SectionEntry {
  uint32_t table = 0;
  uint32_t reserved = 0;
  uint64_t count = 0;
  uint64_t offset = 0;  // of its first page
  uint64_t places_bytes = 0;
};
static_assert(sizeof(SectionEntry) == 32);

/// The last bytes of a run file.
struct RunTrailer {
  char magic[8] = {};
  uint32_t format_version = 0;
  uint32_t num_sections = 0;
  uint64_t sequence = 0;
  uint64_t footer_offset = 0;
  uint64_t file_bytes = 0;
  uint32_t header_checksum = 0;
  uint32_t pages_checksum = 0;  // CRC-32C of the checksums of all pages, in order
  uint32_t reserved[3] = {};
  uint32_t footer_checksum = 0;  // CRC-32C of the footer up to here
};
static_assert(sizeof(RunTrailer) == 64);

constexpr int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

/// "00000012.rows"
std::string run_name(uint64_t sequence);

/// Header, JSON and padding of a run with these tables (indices into `layouts`).
std::vector<std::byte> encode_header(uint64_t sequence, const std::vector<TableLayout>& layouts,
                                     const std::vector<uint32_t>& tables);

/// Throws FormatFault naming what is wrong with the header of `path`.
void check_header(const std::vector<std::byte>& bytes, const std::string& path, uint64_t sequence,
                  const std::vector<TableLayout>& layouts);

/// Throws FormatFault naming what is wrong with the trailer of `path`.
void check_trailer(const RunTrailer& trailer, const std::string& path, uint64_t sequence, int64_t file_bytes);

void put_varint(std::vector<uint8_t>& bytes, uint32_t value);

}  // namespace hotrow::storage

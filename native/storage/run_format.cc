#include "run_format.h"

#include <cstdio>
#include <cstring>

#include "commit_json.h"
#include "crc32c.h"

namespace hotrow::storage {
namespace {

std::string describe_tables(const std::vector<TableLayout>& layouts, const std::vector<uint32_t>& tables) {
  std::string json = "{\"tables\": [";
  for (size_t i = 0; i < tables.size(); ++i) {
    const TableLayout& layout = layouts[tables[i]];
    json += std::string(i == 0 ? "" : ", ") + "{\"table\": " + std::to_string(tables[i]) +
            ", \"name\": " + quoted(layout.name) + ", \"num_rows\": " + std::to_string(layout.num_rows) +
            ", \"record_bytes\": " + std::to_string(layout.record_bytes) +
            ", \"page_bytes\": " + std::to_string(page_shape(layout.record_bytes).page_bytes) +
            ", \"order_id\": " + quoted(layout.order_id) + ", \"record\": " + quoted(layout.record) + "}";
  }
  return json + "]}";
}

[[noreturn]] void fault(const std::string& path, const std::string& what) { throw FormatFault(path + ": " + what); }

void check_table(const Json& table, const std::string& path, const std::vector<TableLayout>& layouts) {
  const int64_t index = table.at("table").number();
  if (index < 0 || index >= static_cast<int64_t>(layouts.size())) {
    fault(path, "names table " + std::to_string(index) + " of " + std::to_string(layouts.size()));
  }
  const TableLayout& layout = layouts[static_cast<size_t>(index)];
  if (table.at("name").text() != layout.name || table.at("record").text() != layout.record ||
      table.at("order_id").text() != layout.order_id || table.at("record_bytes").number() != layout.record_bytes ||
      table.at("page_bytes").number() != page_shape(layout.record_bytes).page_bytes) {
    fault(path, "its table '" + table.at("name").text() + "' is not table '" + layout.name + "' of the log");
  }
}

}  // namespace

std::string run_name(uint64_t sequence) {
  char name[32];
  std::snprintf(name, sizeof(name), "%08llu.rows", static_cast<unsigned long long>(sequence));
  return name;
}

std::vector<std::byte> encode_header(uint64_t sequence, const std::vector<TableLayout>& layouts,
                                     const std::vector<uint32_t>& tables) {
  const std::string json = describe_tables(layouts, tables);
  RunHeader header;
  std::memcpy(header.magic, kHeaderMagic, sizeof(header.magic));
  header.format_version = kFormatVersion;
  header.header_bytes =
      static_cast<uint32_t>(round_up(static_cast<int64_t>(sizeof(header) + json.size()), kBlockBytes));
  header.sequence = sequence;
  header.json_bytes = static_cast<uint32_t>(json.size());
  std::vector<std::byte> bytes(header.header_bytes);
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::memcpy(bytes.data() + sizeof(header), json.data(), json.size());
  header.checksum = crc32c(bytes.data(), bytes.size());
  std::memcpy(bytes.data(), &header, sizeof(header));
  return bytes;
}

void check_header(const std::vector<std::byte>& bytes, const std::string& path, uint64_t sequence,
                  const std::vector<TableLayout>& layouts) {
  RunHeader header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  std::vector<std::byte> copy = bytes;
  std::memset(copy.data() + offsetof(RunHeader, checksum), 0, sizeof(header.checksum));
  if (crc32c(copy.data(), copy.size()) != header.checksum) fault(path, "its header's checksum is wrong");
  if (header.sequence != sequence) {
    fault(path, "holds run " + std::to_string(header.sequence) + ", expected " + std::to_string(sequence));
  }
  if (header.json_bytes > bytes.size() - sizeof(header)) fault(path, "its header is malformed");
  const auto* text = reinterpret_cast<const char*>(bytes.data()) + sizeof(header);
  const Json json = Json::parse({text, header.json_bytes}, path);
  for (const Json& table : json.at("tables").items()) check_table(table, path, layouts);
}

void check_trailer(const RunTrailer& trailer, const std::string& path, uint64_t sequence, int64_t file_bytes) {
  if (std::memcmp(trailer.magic, kTrailerMagic, sizeof(trailer.magic)) != 0) {
    fault(path, "does not end as a run of rows does: truncated or another kind of file");
  }
  if (trailer.format_version != kFormatVersion) {
    fault(path, "has format version " + std::to_string(trailer.format_version) + ", this hotrow reads version " +
                    std::to_string(kFormatVersion));
  }
  if (trailer.sequence != sequence || trailer.file_bytes != static_cast<uint64_t>(file_bytes)) {
    fault(path, "is run " + std::to_string(trailer.sequence) + " of " + std::to_string(trailer.file_bytes) +
                    " bytes, expected run " + std::to_string(sequence) + " of " + std::to_string(file_bytes));
  }
  const uint64_t entries = uint64_t{trailer.num_sections} * sizeof(SectionEntry);
  if (trailer.footer_offset % kBlockBytes != 0 || trailer.footer_offset < kBlockBytes ||
      trailer.footer_offset >= trailer.file_bytes ||
      trailer.footer_offset + entries + sizeof(RunTrailer) > trailer.file_bytes) {
    fault(path, "its trailer is malformed");
  }
}

void put_varint(std::vector<uint8_t>& bytes, uint32_t value) {
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<uint8_t>(value | 0x80));
  bytes.push_back(static_cast<uint8_t>(value));
}

}  // namespace hotrow::storage

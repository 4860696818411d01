// CRC-32C (Castagnoli): the checksum of pages, headers and footers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hotrow::storage {

/// Continues `crc` (0 at first) over `size` bytes; by the processor's instruction where it has one.
uint32_t crc32c(const void* data, size_t size, uint32_t crc = 0);

/// The same by table: what the instruction is tested against.
uint32_t crc32c_by_table(const void* data, size_t size, uint32_t crc = 0);

}  // namespace hotrow::storage

// Row ids to places, for tables whose order is not that of their ids.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace hotrow {

/// A sparse permutation of [0, num_rows): numbers that it does not name stay as they are. Open addressing, two thirds
/// full, 8 bytes an entry: 12 bytes a moved row. Reading is thread-safe.
class OrderMap {
 public:
  /// from[i] becomes to[i]. Throws std::invalid_argument if the two differ in length, a number is outside the table, is
  /// there twice, or is not moved.
  OrderMap(int64_t num_rows, std::span<const uint32_t> from, std::span<const uint32_t> to);

  /// out[i] is what values[i] becomes; numbers outside the table stay as they are. out may be values.
  template <typename Number>
  void translate(const Number* values, int64_t count, Number* out) const;

  int64_t memory_bytes() const { return static_cast<int64_t>(entries_.capacity() * sizeof(Entry)); }

 private:
  struct Entry {
    uint32_t from = 0, to = 0;  // equal where the entry is empty
  };

  size_t start_of(uint32_t value) const {
    const auto hash = static_cast<uint32_t>((value * uint64_t{0x9E3779B97F4A7C15}) >> 32);
    return static_cast<size_t>((uint64_t{hash} * entries_.size()) >> 32);
  }
  uint32_t find(uint32_t value) const;

  uint64_t num_rows_;
  std::vector<Entry> entries_;
};

}  // namespace hotrow

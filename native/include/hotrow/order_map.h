// Row ids to places, for tables whose order is not that of their ids.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace hotrow {

/// A sparse permutation of [0, num_rows): numbers that it does not name stay as they are. Open addressing, four fifths
/// full, 8 bytes an entry, behind a bit per hash value that tells most of the others at once: 11 bytes a moved row.
/// Reading is thread-safe.
class OrderMap {
 public:
  /// from[i] becomes to[i]. Throws std::invalid_argument if the two differ in length, a number is outside the table, is
  /// there twice, or is not moved.
  OrderMap(int64_t num_rows, std::span<const uint32_t> from, std::span<const uint32_t> to);

  /// out[i] is what values[i] becomes; numbers outside the table stay as they are. out may be values.
  template <typename Number>
  void translate(const Number* values, int64_t count, Number* out) const;

  int64_t memory_bytes() const {
    return static_cast<int64_t>(entries_.capacity() * sizeof(Entry) + marks_.capacity() * sizeof(uint64_t));
  }

 private:
  struct Entry {
    uint32_t from = 0, to = 0;  // equal where the entry is empty
  };

  static uint32_t hash_of(uint32_t value) {
    return static_cast<uint32_t>((value * uint64_t{0x9E3779B97F4A7C15}) >> 32);
  }
  static size_t scaled(uint32_t hash, size_t count) { return static_cast<size_t>((uint64_t{hash} * count) >> 32); }
  size_t start_of(uint32_t hash) const { return scaled(hash, entries_.size()); }
  size_t mark_of(uint32_t hash) const { return scaled(hash, 64 * marks_.size()); }
  uint32_t find(uint32_t value) const;

  uint64_t num_rows_;
  std::vector<Entry> entries_;
  std::vector<uint64_t> marks_;  // bit mark_of(hash): some row of that hash moves
};

}  // namespace hotrow

// place -> a small count, for places that are not resident.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hotrow::storage {

/// Open addressing with linear probing; grows with what it holds and does not shrink.
class PlaceCounts {
 public:
  void add(uint32_t place, uint32_t count);  // count > 0
  void subtract_one(uint32_t place);         // its count: > 0
  uint32_t take(uint32_t place);             // the count, which is 0 afterwards
  int64_t memory_bytes() const { return static_cast<int64_t>(entries_.capacity() * sizeof(Entry)); }

 private:
  struct Entry {
    uint32_t place = 0;
    uint32_t count = 0;  // 0: empty
  };
  size_t home(uint32_t place) const {
    return ((static_cast<uint64_t>(place) + 1) * 0x9E3779B97F4A7C15u >> 32) & (entries_.size() - 1);
  }
  size_t find(uint32_t place) const;
  void erase(size_t at);
  void grow();

  std::vector<Entry> entries_;  // none or a power of two
  size_t num_places_ = 0;
};

}  // namespace hotrow::storage

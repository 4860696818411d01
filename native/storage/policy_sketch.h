// How often places were wanted lately: 4-bit counters in a count-min sketch that forgets.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace hotrow::storage {

/// TinyLFU's sketch: four rows of `width` counters up to 15, of which only the smallest of a place rise (minimal
/// increment); after ten times `width` calls of add() every counter is halved.
class FrequencySketch {
 public:
  explicit FrequencySketch(uint32_t width);

  void add(uint32_t place);
  int estimate(uint32_t place) const;
  void prefetch(uint32_t place) const {
    for (int row = 0; row < kRows; ++row) __builtin_prefetch(&counters_[position(place, row) / 2], 1);
  }
  int64_t memory_bytes() const { return static_cast<int64_t>(counters_.capacity()); }

 private:
  static constexpr int kRows = 4;
  /// Of the place's counter in a row.
  uint64_t position(uint32_t place, int row) const {
    constexpr std::array<uint64_t, kRows> kFactors = {0xC3A5C85C97CB3127u, 0xB492B66FBE98F273u, 0x9AE16A3B2F90404Fu,
                                                      0xD6E8FEB86659FD93u};
    const uint64_t hash = (static_cast<uint64_t>(place) + 1) * kFactors[static_cast<size_t>(row)];
    return static_cast<uint64_t>(row) * width_ + (((hash >> 32) * width_) >> 32);
  }
  int counter(uint64_t position) const { return counters_[position / 2] >> (position % 2 * 4) & 15; }
  void halve();

  uint64_t width_;
  uint64_t num_added_ = 0;
  std::vector<uint8_t> counters_;  // two to a byte, row by row
};

}  // namespace hotrow::storage

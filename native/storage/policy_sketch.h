// How often places were wanted lately: 4-bit counters in a count-min sketch that forgets.
#pragma once

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
  int64_t memory_bytes() const { return static_cast<int64_t>(counters_.capacity()); }

 private:
  static constexpr int kRows = 4;
  uint64_t position(uint32_t place, int row) const;
  int counter(uint64_t position) const { return counters_[position / 2] >> (position % 2 * 4) & 15; }
  void halve();

  uint64_t width_;
  uint64_t num_added_ = 0;
  std::vector<uint8_t> counters_;  // two to a byte, row by row
};

}  // namespace hotrow::storage

// The index of the row log in memory: per row a tag that names its run, per page of a run a fence.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace hotrow::storage {

constexpr int kMaxRuns = 63;  // live at once; tag 0 means never written

/// One 6-bit tag per row, four in three bytes.
class Tags {
 public:
  explicit Tags(int64_t num_rows) : num_rows_(num_rows), bytes_(static_cast<size_t>((num_rows + 3) / 4 * 3)) {}

  int64_t num_rows() const { return num_rows_; }
  int64_t memory_bytes() const { return static_cast<int64_t>(bytes_.capacity()); }

  int get(uint32_t place) const { return static_cast<int>(word(place) >> shift(place)) & 63; }

  void set(uint32_t place, int tag) {
    const uint32_t value = (word(place) & ~(63u << shift(place))) | (static_cast<uint32_t>(tag) << shift(place));
    uint8_t* bytes = &bytes_[start(place)];
    bytes[0] = static_cast<uint8_t>(value);
    bytes[1] = static_cast<uint8_t>(value >> 8);
    bytes[2] = static_cast<uint8_t>(value >> 16);
  }

 private:
  static size_t start(uint32_t place) { return static_cast<size_t>(place / 4) * 3; }
  static int shift(uint32_t place) { return static_cast<int>(place % 4) * 6; }
  uint32_t word(uint32_t place) const {
    const uint8_t* bytes = &bytes_[start(place)];
    return bytes[0] | static_cast<uint32_t>(bytes[1]) << 8 | static_cast<uint32_t>(bytes[2]) << 16;
  }

  int64_t num_rows_;
  std::vector<uint8_t> bytes_;
};

/// First places of a section's pages in 16 bits each: relative to the first of every 64 pages, shifted right as little
/// as needed. What the lost bits leave open, neighbouring pages answer.
class Fences {
 public:
  Fences() = default;
  explicit Fences(std::span<const uint32_t> first_places);

  /// Pages that may hold a place: [first, last], more than one only where the shift leaves it open. A place before
  /// the section's first is answered with page 0.
  struct Pages {
    uint32_t first, last;
  };
  Pages find(uint32_t place) const;

  int64_t memory_bytes() const;

 private:
  static constexpr uint32_t kGroup = 64;
  std::vector<uint16_t> fences_;
  std::vector<uint32_t> anchors_;
  std::vector<uint8_t> shifts_;
};

}  // namespace hotrow::storage

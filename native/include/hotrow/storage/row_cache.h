// Which rows of which table sit in which slots: translation of row ids into slots, pins, dirty bits, eviction. No I/O
// and no row bytes: an arena may be memory of any device.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace hotrow::storage {

enum class Policy : int32_t { kNone = 0, kPinned = 1, kLru = 2, kWTinyLfu = 3, kGeneration = 4 };

/// Slots [0, num_pinned) hold the places of the same number for ever; the rest is dynamic.
struct CacheLayout {
  int64_t num_rows = 0;
  int64_t num_pinned = 0;
  int64_t num_slots = 0;  // pinned and dynamic
  Policy policy = Policy::kLru;
};

/// Rows that moved because of one reservation, table by table: entries [begin[t], begin[t + 1]) belong to table t.
struct Moves {
  std::vector<int64_t> begin;
  std::vector<uint32_t> places;  // ascending within a table
  std::vector<uint32_t> slots;
};

/// What one batch asked for and got.
struct Reservation {
  int64_t number = -1;
  Moves fills;        // rows to read into slots
  Moves write_backs;  // dirty rows that lost their slot: their bytes must leave the slot before fills overwrite it
  int64_t num_lookups = 0, num_distinct = 0, num_hits = 0;  // hits: distinct rows that were resident
};

/// Why a reservation is not possible now: distinct rows needed beyond the slots that are not pinned by others.
struct Shortage {
  int64_t table = -1;
  int64_t need_slots = 0;       // by this batch
  int64_t available_slots = 0;  // not pinned by other reservations
};

class RowCache {
 public:
  explicit RowCache(std::vector<CacheLayout> tables);
  ~RowCache();

  /// Translates the ids of a batch into slots (same integer width, same positions) and pins those slots. features:
  /// table of each; splits: lookups of each feature, in order. All or nothing: returns false with `shortage` and
  /// changes nothing if slots do not suffice. Throws std::out_of_range (feature, position, id) before changing
  /// anything.
  template <typename Id>
  bool reserve(std::span<const Id> ids, std::span<const int32_t> features, std::span<const int64_t> splits, Id* slots,
               Reservation& reservation, Shortage& shortage);

  /// Unpins what a reservation pinned; if `dirty`, its rows are newer than any copy elsewhere from now on.
  void release(int64_t reservation, bool dirty);

  /// Dirty rows, pinned ones included, in order of place; they count as clean afterwards. Nothing may be reserved
  /// and about to be updated.
  Moves take_dirty();

  /// Says that the fills of a reservation failed or were dropped: rows that only it brought in are forgotten.
  void abandon(int64_t reservation);

  int64_t memory_bytes() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hotrow::storage

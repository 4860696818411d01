// Which rows of which table sit in which slots: translation of row ids into slots, pins, dirty bits, eviction. No I/O
// and no row bytes: an arena may be memory of any device.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace hotrow::storage {

/// Which unpinned row leaves when a slot is wanted and none is free (hotrow.storage.policies has each in Python):
/// kNone        rows do not stay: one that is unpinned is not resident any more, and is written back by the next batch;
/// kPinned      the row that was unpinned the longest time ago;
/// kLru         the row whose last batch is the oldest;
/// kWTinyLfu    Einziger, Friedman, Manes: TinyLFU, 2017: a window of recent rows, a main part, and admission by a
/// sketch; kGeneration  CachedEmbeddings (ISC 2023), its GenerationBased variant: slots are filled in blocks of 512,
/// and the
///              oldest block leaves whole. (BlockBased copies touched rows into the newest block; rows here stay where
///              they are while they are resident.)
enum class Policy : int32_t { kNone = 0, kPinned = 1, kLru = 2, kWTinyLfu = 3, kGeneration = 4 };

/// Slots [0, num_pinned) hold the places of the same number for ever (the caller fills them once); the rest is dynamic.
/// num_pinned <= num_rows <= 2^32 - 2, num_slots <= 2^31 - 1.
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

/// Why a reservation is not possible now. The first table whose slots do not suffice.
struct Shortage {
  int64_t table = -1;
  int64_t need_slots = 0;       // distinct rows of the batch that no other reservation has pinned already
  int64_t available_slots = 0;  // dynamic ones that no other reservation has pinned
};

/// Thread-safe: every call holds one mutex. The same calls in the same order do the same.
class RowCache {
 public:
  /// Throws std::invalid_argument for a layout that cannot be.
  explicit RowCache(std::vector<CacheLayout> tables);
  ~RowCache();

  /// Translates the ids of a batch into slots (same integer width, same positions; what `slots` holds after a failure
  /// means nothing) and pins those slots, once per distinct row. features: the table of each; lookups
  /// [splits[f], splits[f + 1]) are feature f's. All or nothing: returns false with `shortage` and changes nothing if
  /// slots do not suffice. Throws std::out_of_range (feature, position, id) and std::invalid_argument (splits,
  /// features, too many open reservations) before changing anything.
  ///
  /// Missing rows get slots in ascending order of place: free slots first, then those of the policy's victims.
  template <typename Id>
  bool reserve(std::span<const Id> ids, std::span<const int32_t> features, std::span<const int64_t> splits, Id* slots,
               Reservation& reservation, Shortage& shortage);

  /// Says that a batch comes later, without bringing anything in: until withdraw(), rows that it wants leave only when
  /// no other row can (with kNone they do not leave at once either). So what is known of the future beyond the batches
  /// that are reserved is not lost. The policy is not told. Takes four bytes per distinct row, and eight in a hash
  /// table at most half full for those not resident. Throws as reserve() does.
  template <typename Id>
  int64_t announce(std::span<const Id> ids, std::span<const int32_t> features, std::span<const int64_t> splits);

  /// Ends an announcement: its batch was reserved, or does not come. Throws std::invalid_argument if it is not open.
  void withdraw(int64_t announcement);

  /// Unpins what a reservation pinned; if `dirty`, its rows are newer than any copy elsewhere from now on. Throws
  /// std::invalid_argument for a reservation that is not open or lost rows to another's abandon().
  void release(int64_t reservation, bool dirty);

  /// Dirty rows, pinned ones included, in order of place; they count as clean afterwards. Nothing may be reserved
  /// and about to be updated.
  Moves take_dirty();

  /// Undoes take_dirty() after a commit that failed. Nothing may have been reserved in between: throws
  /// std::invalid_argument, changing nothing, if a row is not in its slot any more.
  void restore_dirty(const Moves& moves);

  /// Ends a reservation whose rows did not arrive: rows that it brought in are forgotten, unless a release made them
  /// dirty since. Returns the other open reservations that hold such rows: their slots stay theirs but are without a
  /// row, so they can only be abandoned, too. A reservation whose fills are complete is dropped by release(number,
  /// false) instead. Its write_backs are the caller's: their rows left the cache when reserve() returned.
  std::vector<int64_t> abandon(int64_t reservation);

  int64_t num_open() const;      // reservations
  int64_t memory_bytes() const;  // all of it, as it is now: per slot 22 bytes (24 with kWTinyLfu), open reservations

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hotrow::storage

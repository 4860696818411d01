// One table of the cache: which row sits in which slot. Not thread-safe: RowCache holds its mutex.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "hotrow/storage/row_cache.h"
#include "policy_order.h"
#include "row_cache_counts.h"
#include "slot_index.h"

namespace hotrow::storage {

/// Distinct places that miss, numbered in order of first touch. Emptied at the cost of what the next batch touches.
class MissSet {
 public:
  void clear();
  uint32_t number(uint32_t place);  // the place's, new or known
  const std::vector<uint32_t>& places() const { return places_; }
  int64_t memory_bytes() const;

 private:
  struct Entry {
    uint32_t place = 0;
    uint32_t number = 0;
    uint32_t epoch = 0;  // of another batch: empty
  };
  Entry& find(uint32_t place);
  void grow();

  std::vector<Entry> entries_;  // a power of two
  std::vector<uint32_t> places_;
  uint32_t epoch_ = 0;
};

/// What one batch touches of one table, found before anything is changed.
struct TableTouch {
  std::vector<uint32_t> prefix;  // distinct pinned places, in order of first touch
  std::vector<uint32_t> hits;    // distinct resident dynamic slots, likewise
  MissSet misses;
  std::vector<int64_t> missed_positions;  // lookups whose entry of `slots` is still the number of a miss

  int64_t num_distinct() const { return static_cast<int64_t>(prefix.size() + hits.size() + misses.places().size()); }
  int64_t memory_bytes() const;
};

/// What an open reservation holds of one table.
struct TableHold {
  std::vector<uint32_t> prefix;
  std::vector<uint32_t> slots;  // dynamic, the first num_hits were resident before
  size_t num_hits = 0;

  int64_t memory_bytes() const;
};

/// Appends a table's part to moves and puts it in order of place.
class MoveWriter {
 public:
  MoveWriter(Moves& moves, uint32_t num_pinned) : moves_(moves), num_pinned_(num_pinned) {}
  void add(uint32_t place, uint32_t dynamic_slot) { added_.push_back({place, num_pinned_ + dynamic_slot}); }
  void finish();

 private:
  struct Move {
    uint32_t place, slot;
  };
  Moves& moves_;
  uint32_t num_pinned_;
  std::vector<Move> added_;
};

class CacheTable {
 public:
  explicit CacheTable(const CacheLayout& layout);

  const CacheLayout& layout() const { return layout_; }

  /// Slots of ids [begin, end), as far as they are resident; the rest is in `touch`. Changes nothing but marks, which
  /// unmark() takes away. ids: inside the table.
  template <typename Id>
  void translate(const Id* ids, int64_t begin, int64_t end, Id* slots, TableTouch& touch);
  void unmark(const TableTouch& touch);

  int64_t slots_needed(const TableTouch& touch) const;
  int64_t slots_available() const { return static_cast<int64_t>(slots_.size()) - num_held_; }

  /// Pins what is touched; needs slots_needed() <= slots_available(). Returns the slots of the misses by number.
  std::vector<uint32_t> take_in(const TableTouch& touch, TableHold& hold, Moves& fills, Moves& write_backs);

  void release(const TableHold& hold, bool dirty);

  /// A batch comes that touches these: until withdraw() they leave after others. Returns its dynamic places.
  std::vector<uint32_t> announce(const TableTouch& touch);
  void withdraw(const std::vector<uint32_t>& places);

  /// Forgets the rows that `hold` brought in, except dirty ones. Returns slots that others hold, too.
  std::vector<uint32_t> forget_fills(const TableHold& hold);

  void take_dirty(Moves& moves);
  bool sits_in(uint32_t place, uint32_t slot) const;
  void set_dirty(uint32_t slot);  // one of the arena's

  int64_t memory_bytes() const;

 private:
  template <typename Id>
  void translate_block(const Id* ids, int64_t begin, int64_t count, Id* slots, TableTouch& touch);
  template <typename Id>
  void translate_pinned(const Id* ids, int64_t begin, int64_t end, Id* slots, TableTouch& touch);
  bool mark_prefix(uint32_t place);
  void prefetch_after(const std::vector<uint32_t>& slots, size_t position) const;
  void hit_all(const TableTouch& touch, TableHold& hold);
  uint32_t take_slot(MoveWriter& write_backs);
  bool evict_victims(MoveWriter& write_backs);  // one round; false if there are none
  void put_in(uint32_t place, uint32_t slot);
  void unpin(uint32_t slot);
  void free_slot(uint32_t slot);
  void unindex(uint32_t slot) { index_.erase(slots_[slot].place, slot, slots_.data()); }
  bool is_indexed(uint32_t slot) const { return !order_->leaves_at_once() || !may_leave(slots_[slot], true); }
  uint32_t num_pinned() const { return static_cast<uint32_t>(layout_.num_pinned); }

  CacheLayout layout_;
  std::vector<Slot> slots_;
  SlotIndex index_;
  std::unique_ptr<EvictionOrder> order_;
  uint32_t free_ = kNoSlot;  // the first of the free slots, linked by `older`
  int64_t num_held_ = 0;     // slots with pins
  std::vector<uint64_t> prefix_seen_, prefix_dirty_;
  PlaceCounts absent_wants_;  // announced batches that want rows which are not resident
  std::vector<uint32_t> victims_;
};

}  // namespace hotrow::storage

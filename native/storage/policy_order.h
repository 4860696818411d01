// Which unpinned row leaves: one object per table, told what happens to its dynamic slots.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "hotrow/storage/row_cache.h"
#include "slot_index.h"

namespace hotrow::storage {

/// The contract that hotrow.storage.policies.EvictionOrder has in Python. Slots are dynamic ones, from 0.
class EvictionOrder {
 public:
  virtual ~EvictionOrder() = default;

  virtual void inserted(uint32_t slot) = 0;  // a row came in; it is pinned
  virtual void hit(uint32_t) {}              // a resident row is wanted by a new batch; before it is pinned
  virtual void unpinned(uint32_t) {}         // no reservation holds it any more
  virtual void removed(uint32_t slot) = 0;   // it left, or was forgotten (then it may be pinned)
  virtual void prefetch(uint32_t) const {}   // this place is hit soon
  /// Before the first victim of a reservation. spare_wanted: rows of announced batches do not leave; set as long as
  /// there are others.
  virtual void begin_victims(bool spare_wanted) = 0;
  /// Appends slots that leave now, neither pinned nor spared: at least one, if there is one.
  virtual void victims(std::vector<uint32_t>& victims) = 0;
  /// Whether a row ceases to be resident as soon as nothing holds it.
  virtual bool leaves_at_once() const { return false; }
  virtual int64_t memory_bytes() const { return 0; }
};

inline bool may_leave(const Slot& slot, bool spare_wanted) {
  return slot.pins == 0 && !(spare_wanted && slot.wants > 0);
}

/// Slots in order of age, linked through the slots themselves.
class SlotList {
 public:
  SlotList(Slot* slots, uint8_t segment) : slots_(slots), segment_(segment) {}

  void push_newest(uint32_t slot);
  void remove(uint32_t slot);
  uint32_t oldest() const { return oldest_; }
  uint32_t size() const { return size_; }

  /// The oldest slot that may leave, or kNoSlot. Between two calls of rewind() slots may become pinned but not
  /// unpinned, so each that stays is passed over once.
  uint32_t oldest_leaving();
  void rewind(bool spare_wanted) {
    cursor_ = oldest_;
    spare_wanted_ = spare_wanted;
  }

 private:
  Slot* slots_;
  uint8_t segment_;
  uint32_t oldest_ = kNoSlot, newest_ = kNoSlot;
  uint32_t cursor_ = kNoSlot;  // all that are older stay
  bool spare_wanted_ = true;
  uint32_t size_ = 0;
};

/// slots: stays where it is as long as the order lives.
std::unique_ptr<EvictionOrder> make_order(Policy policy, std::vector<Slot>& slots);
std::unique_ptr<EvictionOrder> make_w_tiny_lfu(std::vector<Slot>& slots);

}  // namespace hotrow::storage
